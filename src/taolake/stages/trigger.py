"""Trigger: is it time for another round? Counted from the log and the prompts that earlier rounds had.

A prompt is new when no round has it, and different when no earlier prompt has the same words, numbers and quoted names
aside: a thousand askings for another customer's number teach little. Not here: the near-duplicates that curation finds,
and running the round.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from taolake import ids, lake
from taolake.stages import ingest
from taolake.stages.fanout import Row, map_rows
from taolake.stages.round import Outcome, Round

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

LAST = "register"  # a round that has come so far, or that its gate refused, is over
_VARIABLE = re.compile(r"""'[^']*'|"[^"]*"|\w*\d\w*""")
_KEYS = "prompt_id STRING, form STRING"


def trigger(round_: Round) -> Outcome:
    """Count what is new; says whether a round is due, and its number."""
    from pyspark.sql import functions as f

    spec, number, open_ = round_.project.flywheel, *_next(round_)
    known = _keys(round_, round_.lake.read(lake.PROMPTS).where(f.col("task") == round_.project.task.name))
    asked = _keys(round_, ingest.allowed(round_)).dropDuplicates(["prompt_id"])
    forms = known.select("form").distinct().withColumn("seen", f.lit(True))
    new = asked.join(known.select("prompt_id"), "prompt_id", "left_anti").join(forms, "form", "left")
    unseen = f.when(f.col("seen").isNull(), f.col("form"))
    row = new.agg(f.count(f.lit(1)).alias("new"), f.count(unseen).alias("different")).collect()[0]
    fresh, different = row["new"], row["different"]
    enough = fresh >= spec.min_new and different >= spec.min_different * fresh
    detail: dict[str, Any] = {"new": fresh, "different": different, "next_round": number, "unfinished": open_}
    says = f"{fresh} new prompts of {spec.min_new} wanted, {different} unlike earlier ones"
    if open_:
        says = f"round {number} is not finished; {says}"
    return Outcome(0, 0, detail | {"due": bool(open_ or enough), "says": says})


def _next(round_: Round) -> tuple[int, bool]:
    """Number of the round to run, and whether it was begun before."""
    rows = round_.lake.read(lake.ROUNDS).select("round", "stage", "state", "detail").collect()
    if not rows:
        return 1, False
    last = max(row["round"] for row in rows)
    done = {row["stage"] for row in rows if row["round"] == last and row["state"] == "done"}
    refused = any(
        row["round"] == last
        and row["stage"] == "gate"
        and row["state"] == "done"
        and '"promoted": false' in row["detail"]
        for row in rows
    )
    over = LAST in done or refused
    return (last + 1, False) if over else (last, True)


def _keys(round_: Round, rows: "DataFrame") -> "DataFrame":
    """Id and form of every prompt."""
    task = round_.project.task.name

    def run(given: Iterator[Row]) -> Iterator[Row]:
        for row in given:
            asked = [m for m in row["messages"] or [] if m["role"] in ("system", "user", "assistant")]
            if asked:
                yield {"prompt_id": ids.prompt_id(task, asked), "form": form(asked[-1]["content"])}

    return map_rows(rows.select("messages"), _KEYS, run)


def form(question: str) -> str:
    """A question's words, with numbers and quoted names left open."""
    return " ".join(re.findall(r"\w+|…", _VARIABLE.sub("…", question).casefold()))
