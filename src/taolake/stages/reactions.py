"""Reactions in production (`feedback`) with the answers they are about (`inference_log`), as rows of `preferences`.

Called by `label`, which writes them. What was said without consent, or is past its retention, teaches nothing.
"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from taolake import lake
from taolake.curation import reactions
from taolake.stages import ingest
from taolake.stages.fanout import Row, map_rows
from taolake.stages.round import Round

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_KINDS = ("thumb", "edit", "regenerate")
_COLUMNS = f"unit STRING, rows ARRAY<STRUCT<{lake.PREFERENCES.columns}>>, total BIGINT, unused STRING"


def logged(round_: Round) -> bool:
    """Whether production has said anything; asking makes no table."""
    return round_.lake.exists(lake.FEEDBACK) and round_.lake.exists(lake.INFERENCE_LOG)


def learned(round_: Round) -> "DataFrame":
    """A row a prompt: what its reactions give, how many there are, and why some gave nothing (JSON)."""
    from pyspark.sql import functions as f

    spec, ingest, task = round_.project.feedback, round_.project.ingest, round_.project.task.name
    rule = reactions.Rule(spec.between_people, spec.regenerated, spec.clip)
    said = _said(round_).persist()
    # The largest weight of all, so that strengths of different prompts can be compared.
    smallest = said.agg(f.min("share")).collect()[0][0]
    heaviest = max(1.0, reactions.weight(smallest, rule.clip))

    def learn(groups: Iterator[Row]) -> Iterator[Row]:
        for group in groups:
            told = [reactions.Reaction(**reaction) for reaction in group["told"]]
            made = reactions.learn(
                group["messages"], group["task"] or task, told, rule, heaviest, ingest.system, ingest.max_prompt_chars
            )
            yield {"unit": told[0].key, "rows": made.rows, "total": len(told), "unused": json.dumps(made.unused)}

    columns = ("key", "user", "kind", "answer", "value", "text", "share")
    groups = said.groupBy("messages", "task").agg(f.collect_list(f.struct(*columns)).alias("told"))
    return map_rows(groups, _COLUMNS, learn)


def counts(found: "DataFrame") -> dict[str, Any]:
    """Reactions in all, and those that gave no choice yet by reason."""
    reasons: dict[str, int] = {}
    total = 0
    for row in found.select("total", "unused").collect():
        total += row["total"]
        for reason in json.loads(row["unused"]).values():
            reasons[reason] = reasons.get(reason, 0) + 1
    return {"reactions": total, "reactions_unused": sum(reasons.values()), "why_unused": reasons}


def _said(round_: Round) -> "DataFrame":
    """Every reaction with the answer it is about; a regeneration with the answer that came next."""
    from pyspark.sql import functions as f

    log = ingest.allowed(round_).where(f.col("answer").isNotNull())
    about = log.select(
        "request_id", "messages", "task", "answer", "share", "logged_at", "session", f.col("user_id").alias("asker")
    )
    told = round_.lake.read(lake.FEEDBACK).where(f.col("kind").isin(*_KINDS))
    user = f.coalesce("user_id", f.lit("people")).alias("user")
    told = told.select("request_id", "source", "kind", "value", "text", user).join(about, "request_id")
    again = told.where("kind = 'regenerate'").select("request_id", "messages", "logged_at", "session", "asker")
    later = log.select("messages", *(f.col(name).alias(f"next_{name}") for name in ("answer", "logged_at", "session")),
                       f.col("user_id").alias("next_asker"))  # fmt: skip
    same = f.col("asker").eqNullSafe(f.col("next_asker")) & f.col("session").eqNullSafe(f.col("next_session"))
    known = f.col("asker").isNotNull() | f.col("session").isNotNull()  # of nobody's requests none follows another
    nexts = again.join(later, "messages").where(known & same & (f.col("next_logged_at") > f.col("logged_at")))
    first = nexts.groupBy("request_id").agg(f.min_by("next_answer", "next_logged_at").alias("next"))
    joined = told.join(first, "request_id", "left")
    text = f.when(f.col("kind") == "regenerate", f.col("next")).otherwise(f.col("text")).alias("text")
    key = f.concat_ws("/", "request_id", "source").alias("key")
    return joined.select(key, "user", "kind", "answer", "value", text, "share", "messages", "task")
