"""Scores of one prompt's candidates become one reward each, or an abstention for the whole prompt.

Scores are taken as they are in [0, 1]; a calibration, where one is given, is fitted elsewhere (`calibrate`).
Formulas: docs/design.md, section 6.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from taolake.config import Reward
from taolake.selection.calibrate import Calibration, logistic, win_rates
from taolake.types import Score

_DIGITS = 12  # the noise of a sum must not break ties: ranks downstream compare rewards exactly


class Combined(NamedTuple):
    """A candidate's reward. `reason` is empty, `gate` (worth 0), `unscored`, or why the prompt abstains: `too_few`,
    `no_spread`, `doubt`, `conflict`."""

    reward: float | None
    reason: str


def squash(logits: Sequence[float | None]) -> list[float | None]:
    """Map one prompt's reward-model logits into (0, 1): sigmoid(s - mean of the group).

    A Bradley-Terry model is fitted on differences inside a prompt, so a prompt's offset is arbitrary and only the
    centred score means anything: the probability to beat an average candidate. NaN counts as missing.
    """
    known = [s for s in logits if s is not None and math.isfinite(s)]
    if not known:
        return [None] * len(logits)
    mean = sum(known) / len(known)
    return [logistic(s - mean) if s is not None and math.isfinite(s) else None for s in logits]


def combine(
    group: Sequence[Mapping[str, Score | None]], spec: Reward, calibration: Calibration | None = None
) -> list[Combined]:
    """Combine the scores of ONE prompt's candidates.

    1. A candidate that fails a required verifier is worth 0; one whose verifier could not tell is unscored.
    2. The others get the weighted mean of `weights`; one that lacks a weighted score is unscored.
    3. With `pool_over`, equal answers share (sum of q + prior * mean q) / (count + prior): empirical-Bayes shrinkage
       to the prompt's mean. A rare answer's lucky score is pulled back and a frequent answer's mean is believed;
       summing the mass instead would count heads, and simply re-elect the majority. A candidate without a key is an
       answer of its own.
    4. With a calibration, the reward becomes the mean chance that a person prefers the candidate over another scored
       one of its group. A failed verifier stays worth 0.
    5. The prompt abstains when too few candidates are scored, when best and worst are too close to mean anything, when
       the calibration gives the best too small a chance against the worst, or when a scorer from outside contradicts.

    Args:
        group: per candidate, scorer name to score; a missing name, None and NaN mean there is no score.
        spec: the project's `reward` section.
        calibration: fitted on people's choices; None, or the identity, leaves the weighted mean as it is.
    """
    gates = [_gate(scores, spec) for scores in group]
    means = [_mean(scores, spec) if gate is True else None for scores, gate in zip(group, gates, strict=True)]
    if spec.pool_over is not None:
        means = _pool(means, [_key(scores.get(spec.pool_over), i) for i, scores in enumerate(group)], spec.pool_prior)
    plain = [0.0 if gate is False else mean for gate, mean in zip(gates, means, strict=True)]
    fitted = calibration if calibration is not None and calibration.kind != "identity" else None
    rewards = _calibrated(plain, gates, fitted) if fitted else plain
    outside = None if spec.conflict_with is None else [scores.get(spec.conflict_with) for scores in group]
    if why := _abstains(rewards, spec) or _doubt(plain, gates, fitted, spec) or _conflict(rewards, outside):
        return [Combined(None, why)] * len(group)
    reasons = {True: "", False: "gate", None: "unscored"}
    return [
        Combined(reward, "unscored" if reward is None else reasons[gate])
        for reward, gate in zip(rewards, gates, strict=True)
    ]


def _abstains(rewards: Sequence[float | None], spec: Reward) -> str:
    scored = [reward for reward in rewards if reward is not None]
    if len(scored) < spec.min_scored:
        return "too_few"
    # Rounded too: 0.3 - 0.25 is 0.04999..., and a limit of 0.05 must not refuse it.
    return "no_spread" if round(max(scored) - min(scored), _DIGITS) < spec.min_spread else ""


def _doubt(
    plain: Sequence[float | None], gates: Sequence[bool | None], calibration: Calibration | None, spec: Reward
) -> str:
    """Whether best and worst may as well be the other way round; that one failed a verifier is beyond doubt."""
    scored = [(reward, gate) for reward, gate in zip(plain, gates, strict=True) if reward is not None]
    if calibration is None or len({gate for _, gate in scored}) > 1:
        return ""
    rewards = [reward for reward, _ in scored]
    chance = calibration.apply(max(rewards) - min(rewards))
    return "doubt" if round(chance, _DIGITS) < spec.min_chance else ""


def _conflict(rewards: Sequence[float | None], outside: Sequence[Score | None] | None) -> str:
    """Whether a scorer from outside prefers the worst to the best, or has Kendall's tau below 0 with the rewards.

    Only candidates with both count; ties at the top or the bottom speak by their mean.
    """
    if outside is None:
        return ""
    from scipy.stats import kendalltau

    both = [
        (reward, score.value)
        for reward, score in zip(rewards, outside, strict=True)
        if reward is not None and score is not None and score.value is not None and not math.isnan(score.value)
    ]
    best, worst = max(both, default=(0.0, 0.0))[0], min(both, default=(0.0, 0.0))[0]
    if best == worst:
        return ""
    favour = fmean(v for r, v in both if r == best) - fmean(v for r, v in both if r == worst)
    tau = kendalltau(*zip(*both, strict=True)).statistic  # NaN where the scorer sees no difference
    return "conflict" if favour < 0 or tau < 0 else ""


def _value(name: str, score: Score | None) -> float | None:
    if score is None or score.value is None or math.isnan(score.value):
        return None
    if not 0 <= score.value <= 1:
        raise ValueError(f"scorer {name!r}: got value {score.value:g}, wanted 0 to 1; squash logits before combining")
    return score.value


def _gate(scores: Mapping[str, Score | None], spec: Reward) -> bool | None:
    """True: passes; False: fails one verifier, whatever the others could tell; None: one could not tell."""
    values = [_value(name, scores.get(name)) for name in spec.require]
    if 0.0 in values:
        return False
    return None if None in values else True


def _mean(scores: Mapping[str, Score | None], spec: Reward) -> float | None:
    total = sum(spec.weights.values())
    mean = 0.0
    for name, weight in spec.weights.items():
        value = _value(name, scores.get(name))
        if value is None:
            return None
        mean += weight / total * value
    return round(mean, _DIGITS)


def _key(score: Score | None, candidate: int) -> str | int:
    return candidate if score is None or score.answer_key is None else score.answer_key


def _pool(means: Sequence[float | None], keys: Sequence[str | int], prior: float) -> list[float | None]:
    known = [mean for mean in means if mean is not None]
    if not known:
        return list(means)
    centre = math.fsum(known) / len(known)
    counts = Counter(key for key, mean in zip(keys, means, strict=True) if mean is not None)
    sums = {key: math.fsum(m for k, m in zip(keys, means, strict=True) if k == key and m is not None) for key in counts}
    return [
        None if mean is None else round((sums[key] + prior * centre) / (counts[key] + prior), _DIGITS)
        for key, mean in zip(keys, means, strict=True)
    ]


def _calibrated(
    rewards: Sequence[float | None], gates: Sequence[bool | None], calibration: Calibration
) -> list[float | None]:
    """Chances to be preferred; candidates that failed are among the others a chance is taken over."""
    chances = win_rates(rewards, calibration)
    return [
        0.0 if gate is False else None if chance is None else round(chance, _DIGITS)
        for chance, gate in zip(chances, gates, strict=True)
    ]
