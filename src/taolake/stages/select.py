"""Select: rewards become exactly the rows the trainer sees.

Which rows those are depends on the algorithm and is said in `lessons`; a prompt whose candidates cannot be told apart
trains nothing and is counted. Where the project says by whom, the reward's picks are measured first, and set k
(`best_of`); what earlier rounds add or forbid is said in `across`. Sources: docs/design.md sections 2 and 6.
"""

import contextlib
from typing import TYPE_CHECKING, Any

from taolake import ids, lake
from taolake.stages import across, best_of, fingerprints, labelled, lessons, reward
from taolake.stages.fanout import map_rows
from taolake.stages.round import Outcome, Round

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame


def select(round_: Round) -> Outcome:
    """Write the rows of this selection, once."""
    measured = best_of.measure(round_)
    with contextlib.ExitStack() as held:  # each is looked at more than once
        held.callback((grouped := groups_of(round_).persist()).unpersist)
        k = measured["k"] if measured else round_.project.select.best_of
        selection = _name_of(round_, grouped, k)
        rows, past = made_of(round_, grouped, selection, k)
        round_.lake.append_once(lake.SELECTIONS, rows, ids.content_hash(round_.number, selection))
        held.callback((made := written(round_, selection).persist()).unpersist)
        kinds = {r["kind"]: r["count"] for r in made.groupBy("kind").count().collect()}
        detail: dict[str, Any] = {"selection": selection, "content": content_of(round_, made), "rows": kinds}
        detail |= {"best_of": measured, **_facts(grouped), **past, "diversity": across.diverse(round_, made)}
    if not kinds.keys() - {"dev"}:
        raise ValueError(
            f"no prompt can be learned from: {detail}; look at `taolake tables rewards` for why they abstained"
        )
    return Outcome(sum(kinds.values()), 0, detail)


def _name_of(round_: Round, grouped: "DataFrame", k: int) -> str:
    """Hash of all that shapes the rows: the project file alone stays what it was where people's choices, imported
    since, have changed the rewards."""
    from pyspark.sql import functions as f

    members = grouped.select(f.explode("members").alias("m")).select("m.candidate_id", "m.reward", "m.reason")
    seen = round_.lake.content_id(members, "candidate_id", "reward", "reason")
    return ids.content_hash(fingerprints(round_.project)["select"], seen, k)


def made_of(round_: Round, grouped: "DataFrame", selection: str, k: int) -> "tuple[DataFrame, dict[str, Any]]":
    """The rows of a selection, from groups, labels and earlier rounds, and what those added; nothing is written."""
    lesson = lessons.of(round_.project, round_.number, selection, k)
    rows = map_rows(grouped, lake.SELECTIONS.columns, lesson.of_groups)
    told, labels = labelled.rows(round_, selection), round_.project.select.labels
    looked_at = rows.where("kind = 'dev'")
    if told is not None:  # what the brakes look at is not taught by anybody
        told = told.join(looked_at.select("prompt_id"), "prompt_id", "left_anti")
    rows, past = across.balance(round_, selection, rows, told.count() if told is not None else 0)
    if labels is not None and told is not None:
        rows = (looked_at if labels.alone else rows).unionByName(told)
    return rows, past


def written(round_: Round, selection: str) -> "DataFrame":
    """The rows of a selection in the table."""
    from pyspark.sql import functions as f

    return round_.lake.read(lake.SELECTIONS).where(
        (f.col("selection") == selection) & (f.col("round") == round_.number)
    )


def content_of(round_: Round, rows: "DataFrame") -> str:
    """Hash of all that the trainer sees, in any order."""
    return round_.lake.content_id(rows, *lake.SELECTIONS.schema().names)


def groups_of(round_: Round) -> "DataFrame":
    """One row per training prompt with its rewarded candidates."""
    from pyspark.sql import functions as f

    columns = ("candidate_id", "stream", "text", "token_ids", "tokens", "finish_reason", "reward", "reason")
    rows = reward.current(round_, round_.base).where(f.col("split") == "train")
    members = f.collect_list(f.struct(*columns)).alias("members")
    return rows.groupBy("prompt_id", f.to_json("messages").alias("messages")).agg(members)


def _facts(grouped: "DataFrame") -> dict[str, Any]:
    """What the warm-up's rule and the card need: how many passed, how many abstained, who won, what they cost."""
    from pyspark.sql import functions as f

    top = f.array_max(f.transform("members", lambda m: m["reward"]))
    top_a = f.array_max(f.transform(f.filter("members", lambda m: m["stream"] == "A"), lambda m: m["reward"]))
    passed = f.size(f.filter("members", lambda m: m["reward"] > 0)) / f.size("members")
    tokens = f.aggregate("members", f.lit(0).cast("bigint"), lambda seen, m: seen + f.coalesce(m["tokens"], f.lit(0)))
    rows = grouped.select(top.alias("top"), top_a.alias("top_a"), passed.alias("passed"), tokens.alias("tokens"))
    told = f.col("top").isNotNull()
    facts = rows.agg(
        f.count(f.lit(1)).alias("prompts"),
        f.count(f.when(told, True)).alias("kept"),
        f.avg(f.when(told, f.col("passed"))).alias("passed"),
        f.avg(f.when(told, (f.coalesce("top_a", f.lit(0.0)) < f.col("top")).cast("double"))).alias("explored"),
        f.coalesce(f.sum("tokens"), f.lit(0)).alias("tokens"),
    ).collect()[0]
    return {
        "prompts": facts["prompts"],
        "kept": facts["kept"],
        "abstained": facts["prompts"] - facts["kept"],
        "pass_rate": round(facts["passed"] or 0.0, 4),
        "stream_b_wins": round(facts["explored"] or 0.0, 4),
        "answer_tokens": facts["tokens"],
    }


def training_rows(round_: Round, selection: str) -> "pa.Table":
    """A selection as the trainer reads it, in a fixed order."""
    return written(round_, selection).orderBy("row_id").toArrow()
