"""Reward: scores become one number per candidate, or an abstention for the whole prompt.

The rule is `taolake.selection.combine`; this stage brings it the scores of a prompt's group and stores what it says.
Where the project asks for it, rewards become chances that a person prefers the answer: a calibration is fitted on
people's choices on prompts that no reward model trained on, or on what a scorer outside the reward says, such as labels
that may train, from the plain rewards of the same candidates.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from taolake import ids, lake
from taolake.config import Reward, RewardModelScorer
from taolake.selection.calibrate import Calibration, fit
from taolake.selection.combine import combine, squash
from taolake.stages import choices, groups, score
from taolake.stages.fanout import Row, map_rows
from taolake.stages.round import Outcome, Round
from taolake.trust.peak import PEOPLE
from taolake.trust.sample import Draws, Sample
from taolake.types import Policy, Score

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_RIGHT = 0.5  # a scorer that calibrates calls an answer right from here on


def reward(round_: Round) -> Outcome:
    """Reward the base policy's candidates."""
    return fill(round_, round_.base)


def version(round_: Round) -> str:
    """Hash of the rule, of every scorer's version and of the calibration; the group's id is added per prompt."""
    return _version(plain_version(round_), calibration(round_))


def plain_version(round_: Round) -> str:
    """Version of the rewards before calibration."""
    rule = round_.project.reward.model_dump(mode="json", exclude={"calibrate", "calibrated_by", "min_choices"})
    return ids.content_hash(rule, score.versions(round_))[:12]


def calibration(round_: Round) -> Calibration:
    """What choices make of the plain rewards; the identity where none is asked for, or choices are too few.

    The base policy's plain rewards must be in the table: `fill` sees to it.
    """
    rule = round_.project.reward
    if rule.calibrate == "none":
        return Calibration()
    if rule.calibrated_by == PEOPLE:
        pairs = choices.kept_out(choices.made(round_), choices.reward_models(round_))
        told = Sample(pairs, plain_values(round_), Draws())
        differences, made = told.difference_N.tolist(), told.choices
    else:
        differences, made = _verified(round_)
    if made < rule.min_choices:
        return Calibration()
    return fit(rule.calibrate, differences, [1.0] * len(differences))


def fill(round_: Round, policy: Policy) -> Outcome:
    """Reward the groups of a policy that have no reward of this version yet."""
    from pyspark.sql import functions as f

    plain = plain_version(round_)
    if round_.project.reward.calibrate != "none":
        _fill(round_, round_.base, plain, Calibration(), _chosen_on(round_))
    map_ = calibration(round_)
    now = _version(plain, map_)
    new = _fill(round_, policy, now, map_)
    prompts, written = f.countDistinct("prompt_id").alias("prompts"), f.count(f.lit(1)).alias("written")
    told = _current(round_, policy, now).rollup("reason").agg(f.grouping("reason").alias("all"), prompts, written)
    rows = told.collect()
    whole = next((r for r in rows if r["all"]), {"prompts": 0, "written": 0})
    detail = {"version": now, "prompts": whole["prompts"], "candidates": whole["written"]}
    detail |= {"calibration": map_.kind, "calibration_pairs": map_.pairs}
    detail["abstained"] = {r["reason"]: r["prompts"] for r in rows if r["reason"]}
    return Outcome(whole["written"] if new else 0, 0, detail)


def current(round_: Round, policy: Policy) -> "DataFrame":
    """Candidates as `groups.sampled` gives them, those with a row of this version: with their `reward` and `reason`."""
    return _current(round_, policy, version(round_))


def plain_values(round_: Round) -> dict[str, float | None]:
    """Rewards before calibration of the base's answers to prompts people chose on, by candidate."""
    rows = _current(round_, round_.base, plain_version(round_)).join(_reviewed(round_), "prompt_id", "left_semi")
    return {r["candidate_id"]: r["reward"] for r in rows.select("candidate_id", "reward").collect()}


def _version(plain: str, map_: Calibration) -> str:
    return plain if map_.kind == "identity" else ids.content_hash(plain, dataclasses.asdict(map_))[:12]


def _reviewed(round_: Round) -> "DataFrame":
    return round_.lake.read(lake.PREFERENCES).select("prompt_id").distinct()


def _chosen_on(round_: Round) -> "DataFrame":
    """Prompts that calibration looks at: only those need a reward before it."""
    if round_.project.reward.calibrated_by == PEOPLE:
        return _reviewed(round_)
    return score.said(round_, round_.project.reward.calibrated_by).select("prompt_id").distinct()


def _verified(round_: Round) -> tuple[list[float], int]:
    """Differences of plain reward between a right and a wrong answer of one prompt, and how many prompts have both.

    Every answer is in one pair at most, so that a prompt with many says no more than it knows.
    """
    from pyspark.sql import functions as f

    rows = _current(round_, round_.base, plain_version(round_))
    rows = rows.where((f.col("split") == "train") & f.col("reward").isNotNull()).select("candidate_id", "reward")
    said = score.said(round_, round_.project.reward.calibrated_by)
    rows = rows.join(said.select("candidate_id", "prompt_id", "value"), "candidate_id")
    members = f.sort_array(f.collect_list(f.struct("candidate_id", "reward", "value"))).alias("members")
    found = [row["members"] for row in rows.groupBy("prompt_id").agg(members).orderBy("prompt_id").collect()]
    sides = [
        ([m["reward"] for m in g if m["value"] >= _RIGHT], [m["reward"] for m in g if m["value"] < _RIGHT])
        for g in found
    ]
    both = [(right, wrong) for right, wrong in sides if right and wrong]
    return [r - w for right, wrong in both for r, w in zip(right, wrong, strict=False)], len(both)


def _fill(round_: Round, policy: Policy, prefix: str, map_: Calibration, among: "DataFrame | None" = None) -> int:
    """Write the rewards of one version that are not there yet, `among` some prompts; returns the missing groups."""
    done = round_.lake.read(lake.REWARDS).select("prompt_id", "policy", "reward_version").distinct()
    todo = _groups(round_, policy, prefix).join(done, ["prompt_id", "policy", "reward_version"], "left_anti")
    if among is not None:
        todo = todo.join(among, "prompt_id", "left_semi")
    todo = todo.persist()
    try:
        named, count = round_.lake.counted(todo, "prompt_id", "policy", "reward_version")
        if count:
            rows = map_rows(todo, lake.REWARDS.columns, _rule(round_, map_))
            round_.lake.append_once(lake.REWARDS, rows, ids.content_hash("reward", named))
    finally:
        todo.unpersist()
    return count


def _current(round_: Round, policy: Policy, prefix: str) -> "DataFrame":
    from pyspark.sql import functions as f

    version_of_group = f.concat(f.lit(prefix + "@"), "group").alias("reward_version")
    given = round_.lake.read(lake.REWARDS).select("candidate_id", "reward_version", "reward", "reason")
    return groups.sampled(round_, policy).select("*", version_of_group).join(given, ["candidate_id", "reward_version"])


def _groups(round_: Round, policy: Policy, prefix: str) -> "DataFrame":
    """One row a prompt: its candidates, each with the scores of the current versions."""
    from pyspark.sql import functions as f

    names = round_.project.reward.reads
    wanted = [(name, v) for name, v in score.versions(round_).items() if name in names]
    versions = round_.lake.spark.createDataFrame(wanted, "scorer STRING, prefix STRING")
    given = round_.lake.read(lake.SCORES).join(f.broadcast(versions), "scorer")
    rows = groups.sampled(round_, policy).select("candidate_id", "prompt_id", "policy", "group")
    rows = rows.join(given.drop("prompt_id", "policy"), "candidate_id", "left")
    # A scorer that looks at whole groups has the group's id in its version; the others have the version alone.
    right = (f.col("scorer_version") == f.col("prefix")) | (
        f.col("scorer_version") == f.concat_ws("@", "prefix", "group")
    )
    word = f.when(right, f.struct("scorer", "value", "status", "answer_key"))
    scored = rows.groupBy("prompt_id", "policy", "group", "candidate_id").agg(f.collect_list(word).alias("scores"))
    members = f.collect_list(f.struct("candidate_id", "scores")).alias("members")
    named = f.concat(f.lit(prefix + "@"), "group").alias("reward_version")
    return scored.groupBy("prompt_id", "policy", "group").agg(members).select("prompt_id", "policy", named, "members")


def _rule(round_: Round, map_: Calibration) -> Callable[[Iterator[Row]], Iterator[Row]]:
    """Groups in, rewards out."""
    spec: Reward = round_.project.reward
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
            for m, c in zip(members, combine(scores, spec, map_), strict=True)
        ]

    return lambda groups_: (row for group in groups_ for row in rewards(group))
