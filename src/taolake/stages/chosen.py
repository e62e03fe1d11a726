"""The training prompts most worth a place when a round cannot take all, by what the lake knows of them.

Part of `curate`. Not here: how worth is counted and quotas are kept (`taolake.curation.worth`).
"""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from taolake import lake
from taolake.config import Curate, Topics
from taolake.curation import topics as pure
from taolake.curation.worth import Prompt, choose
from taolake.stages import measure
from taolake.stages.fanout import Row, map_rows
from taolake.stages.round import Round

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import DataFrame

_AT_ONCE = 512  # questions encoded together


def chosen(
    round_: Round, spec: Curate, rows: "DataFrame", asked: "DataFrame", hold: "Callable[[DataFrame], DataFrame]"
) -> "DataFrame":
    """The same rows, the training prompts most worth having in split `train`, the others waiting as `spare`.

    Args:
        round_: its lake knows rewards and reactions.
        spec: with a `limit`.
        rows: of `prompts`, with `reason`.
        asked: `prompt_id` and `request_id` of all who asked them in this run.
        hold: keeps a frame in memory.
    """
    from pyspark.sql import functions as f

    assert spec.limit is not None  # asked by curate
    open_ = rows.where("reason IS NULL AND split IN ('train', 'spare')")
    good = round_.lake.read(lake.REWARDS).groupBy("prompt_id").agg(f.avg(f.expr("double(reward > 0.5)")).alias("good"))
    known = open_.join(good, "prompt_id", "left").join(felt(round_, asked), "prompt_id", "left")
    topic, largest = f.lit(None).cast("int").alias("topic"), None
    if spec.topics is not None:
        found = topics(spec.topics, open_, round_.project.seed, hold)
        known, topic, largest = known.join(found, "prompt_id", "left"), f.col("topic"), spec.topics.largest
    columns = known.select("prompt_id", "cluster", "tag", f.coalesce("good", "felt").alias("good"), topic)
    prompts = [Prompt(**row.asDict()) for row in columns.toLocalIterator()]
    weights = {str(name): weight for name, weight in spec.weights.items()}
    taken = choose(prompts, spec.limit, spec.quotas, weights, largest)
    picked = round_.lake.spark.createDataFrame([(each, True) for each in taken], "prompt_id STRING, taken BOOLEAN")
    side = f.when(f.expr("split IN ('train', 'spare')"), f.expr("if(taken, 'train', 'spare')"))
    rows = rows.join(picked, "prompt_id", "left")
    return rows.withColumn("split", side.otherwise(f.col("split"))).drop("taken")


def felt(round_: Round, asked: "DataFrame") -> "DataFrame":
    """`prompt_id` and `felt`, 0 to 1: what people said of its answers, every request that asked it counting once.

    `asked` has the requests that may be learned from, so what was said of others does not count.
    """
    from pyspark.sql import functions as f

    said = round_.lake.read(lake.FEEDBACK).select("request_id", measure.reaction().alias("said"))
    of_request = said.where("said IS NOT NULL").groupBy("request_id").agg(((f.avg("said") + 1) / 2).alias("felt"))
    rows = asked.select("prompt_id", "request_id").join(of_request, "request_id")
    return rows.groupBy("prompt_id").agg(f.avg("felt").alias("felt"))


def topics(spec: Topics, rows: "DataFrame", seed: int, hold: "Callable[[DataFrame], DataFrame]") -> "DataFrame":
    """`prompt_id` and the number of its question's topic."""
    from pyspark.sql import functions as f

    from taolake.engines.encoder import encoder_id

    path, version = spec.encoder, encoder_id(spec.encoder)
    question = f.element_at("messages", -1)["content"].alias("question")
    vectors = hold(
        map_rows(rows.select("prompt_id", question), "prompt_id STRING, vector BINARY", _encoder(path, version))
    )
    some = vectors.orderBy(f.xxhash64("prompt_id"), "prompt_id").limit(pure.SAMPLE).collect()
    if not some:
        return vectors.select("prompt_id", f.lit(0).alias("topic"))
    found = pure.centres(_vectors([row["vector"] for row in some]), spec.count, seed)

    def ask(rows: Iterator[Row]) -> Iterator[Row]:
        while some := list(itertools.islice(rows, _AT_ONCE)):
            for row, topic in zip(some, pure.nearest(_vectors([r["vector"] for r in some]), found), strict=True):
                yield {"prompt_id": row["prompt_id"], "topic": topic}

    return map_rows(vectors, "prompt_id STRING, topic INT", ask)


def _encoder(path: str, version: str) -> "Callable[[Iterator[Row]], Iterator[Row]]":
    def encode(rows: Iterator[Row]) -> Iterator[Row]:
        from taolake.engines.encoder import load

        encoder = load(path, version, "cpu")
        while some := list(itertools.islice(rows, _AT_ONCE)):
            for row, vector in zip(some, encoder.encode([r["question"] for r in some]), strict=True):
                yield {"prompt_id": row["prompt_id"], "vector": vector.astype(np.float32).tobytes()}

    return encode


def _vectors(held: list[bytes]) -> pure.Vectors:
    return np.stack([np.frombuffer(each, np.float32) for each in held])
