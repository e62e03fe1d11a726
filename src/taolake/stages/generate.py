"""Generate: N candidates per prompt, fanned out over Spark, one engine per device.

A cell of the plan is (prompt, policy, strategy, sample). Missing cells come in chunks (`ledger`); a chunk is answered
on the executors (`answer`), staged and committed (`commits`), and while one is committed the next one is answered. Not
here: what an answer is worth (`score`).
"""

import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taolake import lake
from taolake.config import Project, Strategy
from taolake.stages import adaptive, journal, ledger
from taolake.stages.answer import GREEDY, Cells, Work
from taolake.stages.commits import Desk
from taolake.stages.fanout import map_rows
from taolake.stages.flight import two_in_flight
from taolake.stages.ledger import Chunk, Plan
from taolake.stages.live import Live
from taolake.stages.round import Outcome, Round
from taolake.types import Policy

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_PLANNING = threading.Lock()


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
    counts = project.generate.counts() if project.generate.budget is None else {}
    train = [Cells("train", s, counts.get(s.name, 0)) for s in project.generate.strategies]
    review = [Cells("review", project.generate.plain, project.generate.review_n)]
    return [c for c in train + review if c.count] + holdout_cells(project)


def generate(round_: Round) -> Outcome:
    """Fill the base policy's cells; with a budget, those of the training prompts in waves."""
    first = fill(round_, round_.base, base_cells(round_.project))
    spec = round_.project.generate.budget
    if spec is None:
        return first
    # What a strategy is called does not depend on how many answers it owes; the counts are the waves' own.
    train = [Cells("train", s, 0) for s in round_.project.generate.strategies]
    filled = [first]

    def ask(cells: "DataFrame") -> None:
        filled.append(fill(round_, round_.base, train, cells))

    said = adaptive.run(round_, round_.base, spec, ask)
    last = filled[-1]
    return Outcome(sum(o.rows for o in filled), last.tokens, {**last.detail, "budget": said})


def fill(round_: Round, policy: Policy, wanted: list[Cells], single: "DataFrame | None" = None) -> Outcome:
    """Generate the cells of a policy that are not in the table yet; a second call finds nothing to do.

    Args:
        round_: where prompts and candidates are.
        policy: who answers.
        wanted: samples per strategy and split; every strategy that answers is named here.
        single: further cells, prompt by prompt: prompt_id, strategy, word, owed.

    Raises:
        ValueError: an endpoint, which answers with the model it serves, is asked for what was tuned here.
    """
    if round_.project.engine.kind == "endpoint" and policy.id != round_.base.id:
        raise ValueError(
            f"engine.kind 'endpoint' answers with {round_.project.engine.model!r}, got policy {policy.id[:8]}, which "
            "was tuned here: set engine.kind to 'vllm' from evaluate on; the endpoint's answers stay"
        )
    desk = Desk(round_, policy)
    folder = Path(round_.project.work).resolve() / "plan" / desk.folder.name
    try:
        plan = ledger.plan(round_, policy, wanted, folder, desk.salt, single)
        if journal.salvage(round_, policy, [chunk.id for chunk in plan.chunks], desk.put):
            plan = ledger.plan(round_, policy, wanted, folder, desk.salt, single)
        label = f"generate {policy.id[:8]}"
        with round_.progress(label, plan.total) as bar, Live(Path(round_.project.work), label, plan.total, bar) as live:
            run = _Run(round_, policy, wanted, plan, desk, live)
            started = time.monotonic()
            measured = two_in_flight(round_.lake.spark, plan.chunks, run.stage, run.commit)
            cost = _of_run(measured, time.monotonic() - started)
        desk.close()
        journal.forget(round_.project, policy.id)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    made = round_.lake.read(lake.CANDIDATES).where(f"policy = '{policy.id}'")
    return _outcome(made, plan.total, cost)


@dataclass(frozen=True)
class _Run:
    """What the chunks of one `fill` share."""

    round_: Round
    policy: Policy
    wanted: list[Cells]
    plan: Plan
    desk: Desk
    live: Live

    def stage(self, chunk: Chunk) -> dict[str, Any]:
        """Have the engines answer a chunk, unless its answers lie here from a stopped run; what was measured."""
        self.round_.cap.check()
        beats = self.round_.beats(chunk.id)
        if self.desk.staged(chunk):
            seen = self.desk.measure(chunk)
            self.live.end(beats, seen["rows"], seen["tokens"], _errors(seen))
            return seen
        self.live.begin(beats)
        seen = {"rows": 0, "tokens": 0}
        try:
            seen = self.desk.stage(chunk, self._answers(chunk, beats))
        finally:
            said = self.live.end(beats, seen["rows"], seen["tokens"], _errors(seen))
        return {**seen, "engine_tokens": said.tokens, "engine_s": said.seconds, "full_s": said.full_s}

    def commit(self, chunk: Chunk, seen: dict[str, Any]) -> dict[str, Any]:
        """Into the table, which takes no engine; what was measured."""
        started = time.monotonic()
        self.desk.commit(chunk)
        journal.discard(self.round_.project, self.policy.id, chunk.id)
        return {**seen, "commit_s": time.monotonic() - started}

    def _answers(self, chunk: Chunk, beats: Path) -> "DataFrame":
        """A chunk's candidates, not yet computed, on `devices` tasks; whole prompts go to one of them."""
        project = self.round_.project
        work = Work(project, self.policy, {c.strategy.id: c for c in self.wanted}, chunk.id, str(beats))
        rows = self.plan.rows(self.round_, chunk).repartition(project.engine.devices, "prompt_id")
        rows = rows.sortWithinPartitions("prompt_id", "strategy", "word")
        # The worker's environment is read when the plan is made, and belongs to the whole Spark context.
        with _PLANNING, self.round_.engine_workers():
            return map_rows(rows, lake.CANDIDATES.columns, lambda masks: work.answer(ledger.expand(masks)))


def _errors(seen: dict[str, Any]) -> int:
    return sum(seen.get(status, 0) for status in ("invalid", "error", "timeout"))


def _of_run(chunks: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """What this run cost, summed over its chunks; chunks staged by an earlier run were paid for there.

    `waste` is what engines wrote beyond what was kept, as a share of it; `tail` the share of their time in which they
    had fewer requests than they can take; `commit_s` are the seconds of the first and the last commit.
    """
    kept, wrote, busy, full = (
        sum(chunk.get(name, 0) for chunk in chunks if "engine_s" in chunk)
        for name in ("tokens", "engine_tokens", "engine_s", "full_s")
    )
    facts: dict[str, Any] = {
        "tokens_per_s": round(sum(chunk["tokens"] for chunk in chunks) / seconds, 1) if chunks else 0.0,
        "slowest_s": round(max((chunk["slowest_s"] for chunk in chunks), default=0.0), 3),
        "chunks": len(chunks),
        "commit_s": [round(chunk["commit_s"], 3) for chunk in chunks[:: max(1, len(chunks) - 1)]],
    }
    if kept and wrote:
        facts["waste"] = round(wrote / kept - 1, 4)
    if busy:
        facts["tail"] = round(1 - full / busy, 4)
    return facts


def _outcome(made: "DataFrame", new: int, run: dict[str, Any]) -> Outcome:
    """Counts of what the table holds for the policy, and what this run cost, for the round's row."""
    from pyspark.sql import functions as f

    row = made.select(
        f.coalesce(f.sum("tokens"), f.lit(0)).alias("tokens"),
        f.coalesce(f.sum("cached_tokens") / f.sum("prompt_tokens"), f.lit(0.0)).alias("cached"),
        f.count(f.when(f.col("status") != "ok", True)).alias("failed"),
        f.count(f.when((f.col("status") == "ok") & f.col("text").isNull(), True)).alias("unextracted"),
        f.count(f.lit(1)).alias("rows"),
    ).collect()[0]
    detail = {"candidates": row["rows"], "failed": row["failed"], "unextracted": row["unextracted"]}
    detail |= {"cached_share": round(row["cached"] or 0.0, 4), "errors": _reasons(made) if row["failed"] else {}}
    return Outcome(new, row["tokens"], detail | run)


def _reasons(made: "DataFrame") -> dict[str, int]:
    """Rows without an answer by status and the beginning of the reason, numbers struck out; the ten most frequent."""
    from pyspark.sql import functions as f

    start = f.regexp_replace(f.regexp_extract("error", r"^([^:\n]{0,60})", 1), r"\d+", "#")
    kind = f.concat_ws(": ", "status", start).alias("kind")
    counted = made.where(f.col("status") != "ok").groupBy(kind).count()
    return {row["kind"]: row["count"] for row in counted.orderBy(f.desc("count"), "kind").limit(10).collect()}
