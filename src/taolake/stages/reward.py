"""Reward: scores become one number per candidate, or an abstention for the whole prompt.

The rule is `taolake.selection.combine`; this stage brings it the scores of a prompt's group and stores what it says.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from taolake import ids, lake
from taolake.config import AgreementScorer, RewardModelScorer
from taolake.selection.combine import combine, squash
from taolake.stages import groups, score
from taolake.stages.fanout import Row, map_rows
from taolake.stages.round import Outcome, Round
from taolake.types import Policy, Score

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def reward(round_: Round) -> Outcome:
    """Reward the base policy's candidates."""
    return fill(round_, round_.base)


def version(round_: Round) -> str:
    """Hash of the rule and of every scorer's version; the group's id is added per prompt."""
    return ids.content_hash(round_.project.reward.model_dump(mode="json"), score.versions(round_))[:12]


def fill(round_: Round, policy: Policy) -> Outcome:
    """Reward the groups of a policy that have no reward of this version yet."""
    from pyspark.sql import functions as f

    prefix = version(round_)
    done = round_.lake.read(lake.REWARDS).select("prompt_id", "policy", "reward_version").distinct()
    todo = _groups(round_, policy, prefix).join(done, ["prompt_id", "policy", "reward_version"], "left_anti").persist()
    try:
        count = todo.count()
        if count:
            chunk = ids.content_hash("reward", round_.lake.content_id(todo, "prompt_id", "policy", "reward_version"))
            round_.lake.append_once(lake.REWARDS, map_rows(todo, lake.REWARDS.columns, _rule(round_)), chunk)
    finally:
        todo.unpersist()
    mine = current(round_, policy)
    reasons = {
        r["reason"]: r["n"] for r in mine.groupBy("reason").agg(f.countDistinct("prompt_id").alias("n")).collect()
    }
    written = mine.count()
    detail = {"version": prefix, "prompts": mine.select("prompt_id").distinct().count(), "candidates": written}
    return Outcome(written if count else 0, 0, detail | {"abstained": {k: v for k, v in reasons.items() if k}})


def current(round_: Round, policy: Policy) -> "DataFrame":
    """Rewards of this version for the groups as they are now."""
    from pyspark.sql import functions as f

    group = groups.sampled(round_, policy).select("candidate_id", "group")
    rows = round_.lake.read(lake.REWARDS).join(group, "candidate_id")
    return rows.where(f.col("reward_version") == f.concat(f.lit(version(round_) + "@"), "group")).drop("group")


def _groups(round_: Round, policy: Policy, prefix: str) -> "DataFrame":
    """One row a prompt: its candidates, each with the scores of the current versions."""
    from pyspark.sql import functions as f

    names = {*round_.project.reward.weights, *round_.project.reward.require} | {round_.project.reward.pool_over}
    wanted = {name: v for name, v in score.versions(round_).items() if name in names}
    grouped = {s.name for s in round_.project.scorers if isinstance(s, AgreementScorer)}
    versions = round_.lake.spark.createDataFrame(
        [(name, v, name in grouped) for name, v in wanted.items()], "scorer STRING, prefix STRING, grouped BOOLEAN"
    )
    given = round_.lake.read(lake.SCORES).join(f.broadcast(versions), "scorer")
    rows = groups.sampled(round_, policy).select("candidate_id", "prompt_id", "policy", "group")
    rows = rows.join(given.drop("prompt_id", "policy"), "candidate_id", "left")
    right = f.when(f.col("grouped"), f.concat_ws("@", "prefix", "group")).otherwise(f.col("prefix"))
    word = f.when(f.col("scorer_version") == right, f.struct("scorer", "value", "status", "answer_key"))
    scored = rows.groupBy("prompt_id", "policy", "group", "candidate_id").agg(f.collect_list(word).alias("scores"))
    members = f.collect_list(f.struct("candidate_id", "scores")).alias("members")
    named = f.concat(f.lit(prefix + "@"), "group").alias("reward_version")
    return scored.groupBy("prompt_id", "policy", "group").agg(members).select("prompt_id", "policy", named, "members")


def _rule(round_: Round) -> Callable[[Iterator[Row]], Iterator[Row]]:
    """Groups in, rewards out."""
    spec = round_.project.reward
    models = [s.name for s in round_.project.scorers if isinstance(s, RewardModelScorer)]

    def rewards(group: Row) -> list[Row]:
        members = sorted(group["members"], key=lambda m: m["candidate_id"])
        scores = [{s["scorer"]: Score(s["value"], s["status"], s["answer_key"]) for s in m["scores"]} for m in members]
        for name in models:  # logits are comparable inside a prompt only
            logits = [s[name].value if name in s else None for s in scores]
            for given, value in zip(scores, squash(logits), strict=True):
                given[name] = Score(value)
        fixed = {name: group[name] for name in ("prompt_id", "policy", "reward_version")}
        return [
            fixed | {"candidate_id": m["candidate_id"], "reward": c.reward, "reason": c.reason}
            for m, c in zip(members, combine(scores, spec), strict=True)
        ]

    return lambda groups_: (row for group in groups_ for row in rewards(group))
