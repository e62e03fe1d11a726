"""Best of how many: the reward's picks on training prompts, held against people or a scorer that does not train.

Part of `select`; the arithmetic is `taolake.trust.peak`. No label is read: people's choices are those that no reward
model trained on, and a scorer is one that the project names.
"""

from typing import Any

from taolake.stages import choices, reward, score
from taolake.stages.round import Round
from taolake.trust import TrustError
from taolake.trust.peak import PEOPLE, Group, of_choices, peak, report
from taolake.trust.sample import Draws


def measure(round_: Round) -> dict[str, Any] | None:
    """The peak as JSON; None where the project does not ask for it.

    Raises:
        TrustError: there is nothing to measure on, or the curve never rises above one answer.
    """
    spec, by = round_.project.select, round_.project.select.measured_by
    if by is None:
        return None
    found = _people(round_) if by == PEOPLE else _scorer(round_, by)
    told = peak(found, spec.best_of, Draws(round_.project.evaluate.resamples, round_.project.seed))
    if told is None:
        raise TrustError(
            f"best-of-k cannot be measured: {by} has no word on two answers of one prompt that the reward scored; "
            "collect choices, or set select.measured_by to null",
            {"best_of": None},
        )
    made = report(told, by)
    if told.k == 1:
        raise TrustError(f"no training: {made['says']}; mend the reward", {"best_of": made})
    return made


def _people(round_: Round) -> list[Group]:
    """Answers people chose among, on prompts that no reward model trained on."""
    pairs = choices.kept_out(choices.made(round_), choices.reward_models(round_))
    rows = reward.current(round_, round_.base).select("candidate_id", "reward").collect()
    return of_choices(pairs, {row["candidate_id"]: row["reward"] for row in rows})


def _scorer(round_: Round, name: str) -> list[Group]:
    """Stream-A answers to training prompts that have a reward and the scorer's value."""
    from pyspark.sql import functions as f

    seen = (f.col("split") == "train") & (f.col("stream") == "A") & f.col("reward").isNotNull()
    rows = reward.current(round_, round_.base).where(seen).select("prompt_id", "candidate_id", "reward")
    rows = rows.join(score.said(round_, name).select("candidate_id", "value"), "candidate_id")
    members = f.sort_array(f.collect_list(f.struct("candidate_id", "reward", "value"))).alias("members")
    found = rows.groupBy("prompt_id").agg(members).orderBy("prompt_id").collect()
    return [Group([m["reward"] for m in r["members"]], [m["value"] for m in r["members"]]) for r in found]
