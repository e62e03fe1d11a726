"""The ledger: which cells of the generation plan are missing, cut into chunks that can be read one by one.

A cell is (prompt, policy, strategy, sample). Cells are counted in masks, 32 samples of a prompt and strategy to a row,
so that planning carries a row per prompt and not one per answer. What is missing is written once, in a folder per
bucket of prompts; a chunk then reads its own folders, and no chunk pays for the size of the plan. Not here: what
answers the cells (`answer`), and the commit (`commits`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taolake import ids, lake
from taolake.stages.answer import Cells
from taolake.stages.fanout import Row
from taolake.types import Policy

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from taolake.stages.round import Round

WORD = 32  # samples to a mask; 64 would need unsigned numbers, which Spark has not
_MAX_BUCKETS = 4096  # folders of one plan; beyond 4096 chunks, chunks grow
_SCHEMA = (
    "prompt_id STRING, messages ARRAY<STRUCT<role: STRING, content: STRING>>, strategy STRING, word INT, missing BIGINT"
)


@dataclass(frozen=True)
class Chunk:
    """Cells that are committed together; `id` is the hash of their keys."""

    id: str
    buckets: tuple[int, ...]
    cells: int


@dataclass(frozen=True)
class Plan:
    """The missing cells of a policy, in `folder`."""

    folder: Path
    chunks: tuple[Chunk, ...]

    @property
    def total(self) -> int:
        """Missing cells."""
        return sum(chunk.cells for chunk in self.chunks)

    def rows(self, round_: "Round", chunk: Chunk) -> "DataFrame":
        """A chunk's cells as `expand` takes them: prompt_id, messages, strategy, word, missing."""
        folders = [str(self.folder / "cells" / f"bucket={bucket}") for bucket in chunk.buckets]
        return round_.lake.spark.read.schema(_SCHEMA).parquet(*folders)


def plan(
    round_: "Round",
    policy: Policy,
    wanted: Sequence[Cells],
    folder: Path,
    salt: str = "",
    single: "DataFrame | None" = None,
) -> Plan:
    """Wanted cells less committed ones, written below `folder`; what lay there before is overwritten.

    Args:
        round_: where prompts and candidates are.
        policy: who answers.
        wanted: samples per strategy and split.
        folder: for this plan alone.
        salt: part of the chunks' ids, for drivers that must not share them.
        single: further cells, prompt by prompt: prompt_id, strategy, word, owed.
    """
    from pyspark.sql import functions as f

    spark, size = round_.lake.spark, round_.project.generate.chunk_rows
    prompts = round_.lake.read(lake.PROMPTS).where(f.col("task") == round_.project.task.name)
    splits = {row["split"]: row["count"] for row in prompts.groupBy("split").count().collect()}
    whole = sum(splits.get(cells.split, 0) * cells.count for cells in wanted)
    if single is not None:
        whole += single.agg(f.sum(f.bit_count("owed"))).collect()[0][0] or 0
    bucket = f.pmod(f.xxhash64("prompt_id"), f.lit(_buckets(whole, size))).cast("int").alias("bucket")
    missing = _missing(round_, policy, wanted, prompts, single).select("*", bucket)
    # Messages join after what is done has gone, so that a resume moves only those that are asked again.
    cells = missing.join(prompts.select("prompt_id", "messages"), "prompt_id").repartition("bucket")
    cells.write.mode("overwrite").partitionBy("bucket").parquet(str(folder / "cells"))
    planned = spark.read.schema(f"{_SCHEMA}, bucket INT").parquet(str(folder / "cells"))
    chunks = tuple(_chunks(_contents(planned), size, policy.id, salt))
    return Plan(folder, chunks)


def expand(rows: Iterable[Row]) -> Iterator[Row]:
    """Masks into cells, siblings adjacent; on the executor, so that a prompt travels once and not once a sample."""
    for row in rows:
        for bit in range(WORD):
            if row["missing"] >> bit & 1:
                sample = row["word"] * WORD + bit
                yield {
                    "prompt_id": row["prompt_id"],
                    "messages": row["messages"],
                    "strategy": row["strategy"],
                    "sample": sample,
                }


def masks(count: int) -> list[int]:
    """Samples 0 to `count` - 1 as masks of 32.

    >>> [bin(mask).count("1") for mask in masks(40)]
    [32, 8]
    """
    return [(1 << min(WORD, count - start)) - 1 for start in range(0, count, WORD)]


def _missing(
    round_: "Round", policy: Policy, wanted: Sequence[Cells], prompts: "DataFrame", single: "DataFrame | None"
) -> "DataFrame":
    """prompt_id, strategy, word, and the mask of samples that are owed and not committed."""
    from pyspark.sql import functions as f

    owed = round_.lake.spark.createDataFrame(
        [(c.split, c.strategy.id, word, mask) for c in wanted for word, mask in enumerate(masks(c.count))],
        "split STRING, strategy STRING, word INT, owed BIGINT",
    )
    done = round_.lake.read(lake.CANDIDATES).where(f.col("policy") == policy.id)
    done = done.select("prompt_id", "strategy", f.expr(f"sample div {WORD}").cast("int").alias("word"), "sample")
    done = done.groupBy("prompt_id", "strategy", "word").agg(
        f.expr(f"bit_or(shiftleft(1L, sample % {WORD}))").alias("done")
    )
    cells = prompts.select("prompt_id", "split").join(f.broadcast(owed), "split").drop("split")
    if single is not None:
        cells = cells.unionByName(single)
    cells = cells.join(done, ["prompt_id", "strategy", "word"], "left")
    left = f.col("owed").bitwiseAND(f.bitwise_not(f.coalesce("done", f.lit(0).cast("bigint"))))
    return cells.select("prompt_id", "strategy", "word", left.alias("missing")).where(f.col("missing") != 0)


def _buckets(whole: int, size: int) -> int:
    """Buckets for a plan of `whole` cells, done or not: what is committed must not move the others."""
    return max(1, min(_MAX_BUCKETS, -(-whole // size)))


def _contents(missing: "DataFrame") -> list[Any]:
    """One row a bucket, in order: two hashes over its cells in any order, and their number."""
    from pyspark.sql import functions as f

    key = ("prompt_id", "strategy", "word", "missing")
    halves = [f.bit_xor(f.xxhash64(f.lit(salt), *key)).alias(salt) for salt in ("a", "b")]
    counted = missing.groupBy("bucket").agg(*halves, f.sum(f.bit_count("missing")).alias("cells"))
    return counted.orderBy("bucket").collect()


def _chunks(contents: Iterable[Any], size: int, *named: str) -> Iterator[Chunk]:
    """Put neighbouring buckets together until they hold half of `size` cells or more.

    A whole chunk that is committed leaves the bounds of the others as they were, in whatever order chunks are
    committed: so a run that goes on finds the same chunks under the same ids.
    """
    held: list[Any] = []
    for row in contents:
        held.append(row)
        if 2 * sum(r["cells"] for r in held) >= size:
            yield _chunk(held, *named)
            held = []
    if held:
        yield _chunk(held, *named)


def _chunk(rows: Sequence[Any], *named: str) -> Chunk:
    name = ids.content_hash("generate", *named, [[row["a"], row["b"], row["cells"]] for row in rows])
    return Chunk(name, tuple(row["bucket"] for row in rows), sum(row["cells"] for row in rows))
