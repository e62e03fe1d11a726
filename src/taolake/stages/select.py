"""Select: rewards become exactly the rows the trainer sees.

`imitate` rows are drawn from the order-statistic weights of best-of-k (never the argmax alone: it selects the scorer's
noise); `regress` rows are all complete stream-A candidates with their advantage; a prompt whose candidates cannot be
told apart trains nothing and is counted. Sources: docs/design.md sections 2 and 5; the weights are
`taolake.selection.weights`.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from taolake import ids, lake
from taolake.selection import weights
from taolake.stages import fingerprints, groups, reward
from taolake.stages.fanout import Row, map_rows
from taolake.stages.round import Outcome, Round

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame


def select(round_: Round) -> Outcome:
    """Write the rows of this selection, once."""
    from pyspark.sql import functions as f

    selection = fingerprints(round_.project)["select"]
    grouped = _groups(round_).persist()
    try:
        rows = map_rows(grouped, lake.SELECTIONS.columns, _plan(round_, selection))
        round_.lake.append_once(lake.SELECTIONS, rows, ids.content_hash(round_.number, selection))
        made = round_.lake.read(lake.SELECTIONS).where(
            (f.col("selection") == selection) & (f.col("round") == round_.number)
        )
        kinds = {r["kind"]: r["count"] for r in made.groupBy("kind").count().collect()}
        detail = {"selection": selection, "rows": kinds, **_facts(grouped)}
    finally:
        grouped.unpersist()
    if not kinds:
        raise ValueError(
            f"no prompt can be learned from: {detail}; look at `taolake tables rewards` for why they abstained"
        )
    return Outcome(sum(kinds.values()), 0, detail)


def _groups(round_: Round) -> "DataFrame":
    """One row per training prompt with its rewarded candidates."""
    from pyspark.sql import functions as f

    rewards = reward.current(round_, round_.base).select("candidate_id", "reward", "reason")
    columns = ("candidate_id", "stream", "text", "token_ids", "finish_reason", "reward", "reason")
    rows = groups.sampled(round_, round_.base).where(f.col("split") == "train").join(rewards, "candidate_id")
    members = f.collect_list(f.struct(*columns)).alias("members")
    return rows.groupBy("prompt_id", f.to_json("messages").alias("messages")).agg(members)


def _facts(grouped: "DataFrame") -> dict[str, Any]:
    """What the warm-up's rule and the card need: how many passed, how many abstained, who won."""
    from pyspark.sql import functions as f

    top = f.array_max(f.transform("members", lambda m: m["reward"]))
    top_a = f.array_max(f.transform(f.filter("members", lambda m: m["stream"] == "A"), lambda m: m["reward"]))
    passed = f.size(f.filter("members", lambda m: m["reward"] > 0)) / f.size("members")
    rows = grouped.select(top.alias("top"), top_a.alias("top_a"), passed.alias("passed"))
    told = f.col("top").isNotNull()
    facts = rows.agg(
        f.count(f.lit(1)).alias("prompts"),
        f.count(f.when(told, True)).alias("kept"),
        f.avg(f.when(told, f.col("passed"))).alias("passed"),
        f.avg(f.when(told, (f.coalesce("top_a", f.lit(0.0)) < f.col("top")).cast("double"))).alias("explored"),
    ).collect()[0]
    return {
        "prompts": facts["prompts"],
        "kept": facts["kept"],
        "abstained": facts["prompts"] - facts["kept"],
        "pass_rate": round(facts["passed"] or 0.0, 4),
        "stream_b_wins": round(facts["explored"] or 0.0, 4),
    }


def _plan(round_: Round, selection: str) -> Callable[[Iterator[Row]], Iterator[Row]]:
    """Groups in, training rows out."""
    spec, seed, number = round_.project.select, round_.project.seed, round_.number
    beta_v, online = round_.project.train.oapl.beta_v, round_.project.train.algorithm == "grpo"
    blank = dict.fromkeys(lake.SELECTIONS.schema().names)

    def row(kind: str, group: Row, member: Row | None, **more: Any) -> Row:
        candidate = member["candidate_id"] if member else None
        return blank | {
            "round": number,
            "row_id": ids.content_hash(selection, kind, group["prompt_id"], candidate),
            "selection": selection,
            "kind": kind,
            "prompt_id": group["prompt_id"],
            "candidate_id": candidate,
            "messages": group["messages"],
            "reward": member["reward"] if member else None,
            **more,
        }

    def plan(group: Row) -> list[Row]:
        scored = sorted((m for m in group["members"] if m["reward"] is not None), key=lambda m: m["candidate_id"])
        if not scored:
            return []
        if online:
            return [row("prompt", group, None)]
        return imitate(group, scored) + regress(group, scored)

    def imitate(group: Row, scored: list[Row]) -> list[Row]:
        share = weights.order_statistic_weights([m["reward"] for m in scored], spec.best_of)
        able = [
            w if m["text"] and m["finish_reason"] == "stop" and m["reward"] > spec.min_reward else 0.0
            for w, m in zip(share, scored, strict=True)
        ]
        drawn = weights.draw(able, spec.rows_per_prompt, ids.sample_seed(seed, group["prompt_id"]))
        return [row("imitate", group, scored[i], text=scored[i]["text"], weight=1.0) for i in drawn]

    def regress(group: Row, scored: list[Row]) -> list[Row]:
        own = [m for m in scored if m["stream"] == "A" and m["finish_reason"] == "stop" and m["token_ids"]]
        if len(own) < 2:
            return []
        gains = weights.advantages([m["reward"] for m in own], beta_v)
        return [
            row("regress", group, m, token_ids=m["token_ids"], advantage=gain, weight=1.0)
            for m, gain in zip(own, gains, strict=True)
        ]

    return lambda groups_: (row for group in groups_ for row in plan(group))


def training_rows(round_: Round, selection: str) -> "pa.Table":
    """A selection as the trainer reads it, in a fixed order."""
    from pyspark.sql import functions as f

    rows = round_.lake.read(lake.SELECTIONS).where(
        (f.col("selection") == selection) & (f.col("round") == round_.number)
    )
    return rows.orderBy("row_id").toArrow()
