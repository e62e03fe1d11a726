"""Judge scores: units of candidates that are scored together, the calls they need, and scores out of the replies.

Not here: how calls are asked, kept and paid (`calls`), the questions, and what replies amount to (`scoring`).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taolake import ids, lake
from taolake.config import Task
from taolake.scoring import judge, panel
from taolake.scoring.judge import JudgeSpec
from taolake.stages import calls, groups, scored
from taolake.stages.fanout import Row, map_rows
from taolake.stages.round import Round
from taolake.types import Policy, Score

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_CALLS = "prompt_id STRING, scorer_version STRING, call_id STRING, judge INT, messages STRING, tokens_bound INT"
_OVERHEAD_TOKENS = 500  # chat templates, and what providers add for structured output
_UNIT = ("prompt_id", "scorer_version")


def fill(round_: Round, policy: Policy, spec: JudgeSpec, version: str) -> tuple[int, dict[str, Any]]:
    """Score the policy's candidates that have no row of this scorer and version.

    Returns:
        Rows written; and calls asked and found in the cache, tokens, dollars, flips, disagreement.

    Raises:
        BudgetError: the budget ended first; candidates whose calls were all answered have their rows.
        JudgeDownError: a judge answered none of many calls; no rows are written.
    """
    task = round_.project.task
    units = _units(round_, policy, spec, version).persist()
    planned = map_rows(units, _CALLS, _Planning(spec, task).calls).persist()
    todo = calls.missing(round_, planned).persist()
    try:
        total, new = planned.select("call_id").distinct().count(), todo.count()
        purse = calls.purse_of(round_, spec)
        before = (purse.tokens, purse.dollars)
        asked, commits = calls.ask(round_, spec, todo, purse) if new else (0, [])
        rows = _write(round_, spec, _ready(round_, units, planned, commits))
        detail = {
            "calls": asked,
            "cached": total - new,
            "tokens": purse.tokens - before[0],
            "dollars": round(purse.dollars - before[1], 6),
        }
    finally:
        for frame in (todo, planned, units):
            frame.unpersist()
    if asked < new:
        raise calls.BudgetError(
            f"scorer {spec.name!r} has spent {purse} in round {round_.number} and stopped before {new - asked} of its "
            f"{new} calls; {rows} candidates were scored and every answer is kept: raise max_dollars or "
            f"max_tokens_total of {spec.name!r} and run the stage again, and it goes on from here"
        )
    return rows, detail | _findings(round_, policy, spec, version)


def _units(round_: Round, policy: Policy, spec: JudgeSpec, version: str) -> "DataFrame":
    """One row a prompt with what is to be scored together: its candidates without a score, or its whole new group."""
    from pyspark.sql import functions as f

    done = round_.lake.read(lake.SCORES).where(f.col("scorer") == spec.name)
    if judge.grouped(spec):
        rows = groups.sampled(round_, policy)
        rows = rows.withColumn("scorer_version", f.concat(f.lit(version + "@"), "group"))
        rows = rows.join(done.select(*_UNIT, "policy").distinct(), [*_UNIT, "policy"], "left_anti")
    else:
        rows = groups.candidates(round_, policy).withColumn("scorer_version", f.lit(version))
        rows = rows.join(done.select("candidate_id", "scorer_version"), ["candidate_id", "scorer_version"], "left_anti")
    members = f.collect_list(f.struct("candidate_id", "text", "status", "error")).alias("members")
    who, messages = groups.group_id(f.collect_list("candidate_id")).alias("who"), f.first("messages").alias("messages")
    return rows.groupBy(*_UNIT, "policy").agg(members, who, messages)


@dataclass(frozen=True)
class _Planning:
    """From units to calls and, with the replies, to scores; travels to executors."""

    spec: JudgeSpec
    task: Task

    def calls(self, units: Iterator[Row]) -> Iterator[Row]:
        """The calls of each unit, with an upper bound of their tokens."""
        for unit in units:
            for call in self._plan(unit):
                # No tokeniser makes more tokens of a text than it has bytes.
                size = sum(len(m["content"].encode()) for m in call.messages)
                yield {
                    "prompt_id": unit["prompt_id"],
                    "scorer_version": unit["scorer_version"],
                    "call_id": call.call_id,
                    "judge": call.judge,
                    "messages": json.dumps(call.messages, ensure_ascii=False),
                    "tokens_bound": size + _OVERHEAD_TOKENS,
                }

    def scores(self, units: Iterator[Row]) -> Iterator[Row]:
        """A row of `scores` for every member of each unit."""
        for unit in units:
            given = {r["call_id"]: panel.Reply(r["reply"], r["error"]) for r in unit["replies"] or ()}
            scores = panel.aggregate(self.spec, self._plan(unit), given)
            for member in sorted(unit["members"], key=lambda m: str(m["candidate_id"])):
                yield scored.row(unit | member, self.spec.name, unit["scorer_version"], _given(member, scores))

    def _plan(self, unit: Row) -> list[judge.Call]:
        texts = [m["text"] for m in unit["members"] if m["status"] == "ok" and m["text"] is not None]
        return list(judge.plan(self.spec, self.task, unit["prompt_id"], unit["messages"], texts))


def _given(member: Row, scores: Mapping[str, Score]) -> Score:
    """As verifiers do: an answer that could not be taken out is wrong, one that was never given cannot be judged."""
    if member["status"] != "ok":
        return Score(None, "error", detail={"error": f"no candidate: {member['error']}"})
    if member["text"] is None:
        return Score(0.0, detail={"error": "no answer could be taken out of what the model wrote"})
    alone = Score(None, "abstain", detail={"error": "the prompt has no other answer to hold it against"})
    return scores.get(member["text"], alone)


def _ready(round_: Round, units: "DataFrame", planned: "DataFrame", commits: list[str]) -> "DataFrame":
    """Units all of whose calls have an answer, or were tried in this run, with the replies."""
    from pyspark.sql import functions as f

    heard = planned.select(*_UNIT, "call_id").join(calls.replies(round_, commits), "call_id", "left")
    heard = heard.groupBy(*_UNIT).agg(
        f.collect_list(f.struct("call_id", "reply", "error")).alias("replies"),
        f.count(f.when(f.col("reply").isNull(), 1)).alias("open"),
    )
    return units.join(heard, [*_UNIT], "left").where(f.coalesce("open", f.lit(0)) == 0).drop("open")


def _write(round_: Round, spec: JudgeSpec, ready: "DataFrame") -> int:
    """Commit the scores of whole units; returns the rows written."""
    from pyspark.sql import functions as f

    ready = ready.persist()
    try:
        rows = int(ready.agg(f.coalesce(f.sum(f.size("members")), f.lit(0))).collect()[0][0])
        if rows:
            chunk = ids.content_hash("score", spec.name, round_.lake.content_id(ready, *_UNIT, "who"))
            made = map_rows(ready, lake.SCORES.columns, _Planning(spec, round_.project.task).scores)
            round_.lake.append_once(lake.SCORES, made, chunk)
    finally:
        ready.unpersist()
    return rows


def _findings(round_: Round, policy: Policy, spec: JudgeSpec, version: str) -> dict[str, Any]:
    """What the policy's scores of this version show: share without a value, flipped pairs, disagreement."""
    from pyspark.sql import functions as f

    mine = (f.col("scorer") == spec.name) & (f.col("policy") == policy.id)
    right = f.substring_index("scorer_version", "@", 1) == version
    number = {n: f.get_json_object("detail", f"$.{n}").cast("double") for n in ("pairs", "flips", "disagreement")}
    # Equal answers of a prompt share their score, and the pairs it was won in.
    texts = round_.lake.read(lake.CANDIDATES).select("candidate_id", "text")
    found = round_.lake.read(lake.SCORES).where(mine & right).join(texts, "candidate_id")
    row = (
        found.dropDuplicates(["prompt_id", "scorer_version", "text"])
        .agg(
            f.sum(number["pairs"]).alias("pairs"),
            f.sum(number["flips"]).alias("flips"),
            f.avg(number["disagreement"]).alias("disagreement"),
        )
        .collect()[0]
    )
    found_: dict[str, Any] = {"without_value": found.where(f.col("value").isNull()).count()}
    if row["pairs"]:
        found_ |= {"pairs": int(row["pairs"]) // 2, "flips": int(row["flips"]) // 2}  # both sides of a pair know it
    if row["disagreement"] is not None:
        found_["disagreement"] = round(row["disagreement"], 6)
    return found_
