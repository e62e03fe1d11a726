"""Generate: N candidates per prompt, fanned out over Spark, one engine per device.

A cell of the plan is (prompt, policy, strategy, sample). Missing cells are the plan without what is committed; they are
cut into chunks whose id is the hash of their keys, and every chunk is one idempotent commit. Not here: the engines
(`taolake.engines`), and what an answer is worth (`score`).
"""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taolake import ids, lake
from taolake.config import Project, Strategy
from taolake.scoring.extract import extract, variant
from taolake.stages.fanout import Row, map_rows
from taolake.stages.round import Outcome, Progress, Round
from taolake.types import Completion, Policy, Request, Sampling

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

GREEDY = "greedy"
_BEAT_S = 1.0


@dataclass(frozen=True)
class Cells:
    """What one strategy owes each prompt of a split: samples 0 to `count` - 1."""

    split: str
    strategy: Strategy
    count: int

    @property
    def stream(self) -> str:
        """A: the policy's own distribution; G: its single best guess; B: exploration."""
        return "G" if self.strategy.name == GREEDY else "A" if self.strategy.on_policy else "B"


def greedy(project: Project) -> Strategy:
    """The answer the deployed model would give: the bare prompt at temperature 0."""
    return project.generate.plain.model_copy(update={"name": GREEDY, "temperature": 0.0})


def holdout_cells(project: Project) -> list[Cells]:
    """What evaluation needs of a policy: the greedy answer, and samples for pass@k and best-of-N."""
    return [
        Cells("holdout", greedy(project), 1),
        Cells("holdout", project.generate.plain, project.evaluate.samples),
    ]


def base_cells(project: Project) -> list[Cells]:
    """What a round needs of the base: candidates to learn from, to show to people, and to compare with."""
    counts = project.generate.counts()
    train = [Cells("train", s, counts[s.name]) for s in project.generate.strategies]
    review = [Cells("review", project.generate.plain, project.generate.review_n)]
    return [c for c in train + review if c.count] + holdout_cells(project)


def generate(round_: Round) -> Outcome:
    """Fill the base policy's cells."""
    return fill(round_, round_.base, base_cells(round_.project))


def fill(round_: Round, policy: Policy, wanted: list[Cells]) -> Outcome:
    """Generate the cells of a policy that are not in the table yet; a second call finds nothing to do."""
    from pyspark.sql import functions as f

    missing = _missing(round_, policy, wanted).persist()
    try:
        total = missing.count()
        chunks = max(1, -(-total // round_.project.generate.chunk_rows))
        # Whole prompts go into one chunk: a prompt's samples share their prefix in the engine's cache.
        cells = missing.withColumn("chunk", f.pmod(f.xxhash64("prompt_id"), f.lit(chunks)))
        with round_.progress(f"generate {policy.id[:8]}", total) as bar:
            for number in range(chunks) if total else ():
                _run_chunk(round_, policy, wanted, cells.where(f.col("chunk") == number).drop("chunk"), bar)
    finally:
        missing.unpersist()
    made = round_.lake.read(lake.CANDIDATES).where(f.col("policy") == policy.id)
    return _outcome(made, total)


def _missing(round_: Round, policy: Policy, wanted: list[Cells]) -> "DataFrame":
    """Plan minus committed rows: prompt_id, messages, strategy, sample."""
    from pyspark.sql import functions as f

    spark = round_.lake.spark
    plan = spark.createDataFrame(
        [(c.split, c.strategy.id, c.count) for c in wanted], "split STRING, strategy STRING, count INT"
    )
    prompts = round_.lake.read(lake.PROMPTS).where(f.col("task") == round_.project.task.name)
    cells = prompts.select("prompt_id", "messages", "split").join(f.broadcast(plan), "split")
    cells = cells.withColumn("sample", f.explode(f.sequence(f.lit(0), f.col("count") - 1))).drop("split", "count")
    done = round_.lake.read(lake.CANDIDATES).where(f.col("policy") == policy.id)
    return cells.join(done.select("prompt_id", "strategy", "sample"), ["prompt_id", "strategy", "sample"], "left_anti")


def _run_chunk(round_: Round, policy: Policy, wanted: list[Cells], cells: "DataFrame", bar: Progress) -> None:
    """One commit: generate a chunk's cells on `devices` tasks and append them once."""
    project = round_.project
    keys = round_.lake.content_id(cells, "prompt_id", "strategy", "sample")
    chunk = ids.content_hash("generate", policy.id, keys)
    beats = round_.beats(chunk)
    work = _Work(project, policy, {c.strategy.id: c for c in wanted}, chunk, str(beats))
    ordered = cells.repartition(project.engine.devices, "prompt_id").sortWithinPartitions(
        "prompt_id", "strategy", "sample"
    )
    with bar.follow(beats), round_.engine_workers():
        answers = map_rows(ordered, lake.CANDIDATES.columns, work.answer)
        round_.lake.append_once(lake.CANDIDATES, answers, chunk)


@dataclass(frozen=True)
class _Work:
    """What an executor needs to answer a chunk: plain values only, so it travels; the engine is built there."""

    project: Project
    policy: Policy
    cells: dict[str, Cells]
    chunk: str
    beats: str

    def answer(self, cells: Iterator[Row]) -> Iterator[Row]:
        """Cells in, candidates out, in the order they finish."""
        from taolake import engines
        from taolake.engines import window

        engine = engines.build(self.project.engine, self.project.model, self.policy)
        waiting: dict[str, Row] = {}
        beat_at = 0.0
        for done, completion in enumerate(window.run(engine, self._requests(cells, waiting)), start=1):
            if time.monotonic() - beat_at > _BEAT_S:
                beat_at = time.monotonic()
                _beat(self.beats, done)
            yield self._row(waiting.pop(completion.key), completion)

    def _requests(self, cells: Iterable[Row], waiting: dict[str, Row]) -> Iterator[Request]:
        last: tuple[Any, Any] = (None, ())
        for cell in cells:
            strategy = self.cells[cell["strategy"]].strategy
            if last[0] != (cell["prompt_id"], strategy.id):
                last = ((cell["prompt_id"], strategy.id), tuple(variant(cell["messages"], strategy)))
            name = ids.candidate_id(cell["prompt_id"], self.policy.id, cell["strategy"], cell["sample"])
            seed = ids.sample_seed(self.project.seed, name)
            waiting[name] = cell | {"candidate_id": name, "seed": seed}
            yield Request(name, last[1], _sampling(strategy, self.project), seed)

    def _row(self, cell: Row, done: Completion) -> Row:
        mine = self.cells[cell["strategy"]]
        text = extract(done.text, mine.strategy.extract) if done.status == "ok" else None
        return {
            "candidate_id": cell["candidate_id"],
            "prompt_id": cell["prompt_id"],
            "policy": self.policy.id,
            "strategy": cell["strategy"],
            "sample": cell["sample"],
            "stream": mine.stream,
            "text": text,
            "raw": done.text,
            "token_ids": list(done.token_ids),
            "finish_reason": done.finish_reason,
            "status": done.status,
            "error": done.error,
            "seed": cell["seed"],
            "prompt_tokens": done.prompt_tokens,
            "tokens": done.completion_tokens,
            "cached_tokens": done.cached_tokens,
            "seconds": done.seconds,
            "chunk_id": self.chunk,
        }


def _sampling(strategy: Strategy, project: Project) -> Sampling:
    return Sampling(project.model.max_tokens, strategy.temperature, strategy.top_p, strategy.top_k, strategy.min_p)


def _beat(folder: str, done: int) -> None:
    """Tell the driver how far this task is; a lost beat only makes the bar jump."""
    from pyspark import TaskContext

    context = TaskContext.get()
    Path(folder, str(context.partitionId() if context else 0)).write_text(json.dumps({"done": done}))


def _outcome(made: "DataFrame", new: int) -> Outcome:
    """Counts of what the table holds for the policy, for the round's row."""
    from pyspark.sql import functions as f

    row = made.select(
        f.coalesce(f.sum("tokens"), f.lit(0)).alias("tokens"),
        f.coalesce(f.sum("cached_tokens") / f.sum("prompt_tokens"), f.lit(0.0)).alias("cached"),
        f.count(f.when(f.col("status") != "ok", True)).alias("failed"),
        f.count(f.when((f.col("status") == "ok") & f.col("text").isNull(), True)).alias("unextracted"),
        f.count(f.lit(1)).alias("rows"),
    ).collect()[0]
    detail = {"candidates": row["rows"], "failed": row["failed"], "unextracted": row["unextracted"]}
    return Outcome(new, row["tokens"], {**detail, "cached_share": round(row["cached"] or 0.0, 4)})
