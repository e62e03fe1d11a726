"""The card's arithmetic: measurements per prompt in, numbers with intervals out. No Spark, no clock, no files.

Every interval resamples prompts with the project's seed, so that the same tables give the same card to the last byte.
The estimators are those of `taolake.verdict`; what is here only lines their inputs up.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taolake.verdict import Interval, bake_in, bootstrap, mcnemar, paired_gain

Measured = Mapping[str, Mapping[str, float]]  # metric -> prompt -> value

REWARD_EDGES: tuple[float, ...] = tuple(i / 10 for i in range(11))
_DIGITS = 6


@dataclass(frozen=True)
class Draws:
    """How intervals are drawn."""

    resamples: int
    seed: int


def policy_numbers(policy: str, measured: Measured, prompts: Sequence[str], draws: Draws) -> dict[str, Any]:
    """What one policy scored on the prompts: each metric's mean, with an interval where it is shown with one."""
    samples = [measured["samples"][p] for p in prompts]
    sampled = {p: measured["correct"][p] / measured["samples"][p] for p in prompts}
    best = stat(measured.get("best_of_n", {}), prompts, draws)
    return {
        "id": policy,
        "greedy": stat(measured["greedy"], prompts, draws),
        "sampled": stat(sampled, prompts, draws),
        "pass_at": _pass_at(measured, prompts),
        "best_of_n": best and {"n": int(max(samples)), **best},
        "greedy_tokens": stat(measured.get("greedy_tokens", {}), prompts, draws),
        "truncated": _mean([measured.get("greedy_truncated", {}).get(p) for p in prompts]),
    }


def reward_numbers(
    base: Measured, tuned: Measured, prompts: Sequence[str], draws: Draws
) -> list[dict[str, Any] | None]:
    """Mean reward of base and tuned over the prompts where the reward could tell for both.

    A better model's answers to a prompt resemble each other more, and the reward then abstains: means over each
    policy's own prompts would compare different prompts.
    """
    both = [p for p in prompts if p in base.get("reward", {}) and p in tuned.get("reward", {})]
    found = [stat(measured.get("reward", {}), both, draws) for measured in (base, tuned)]
    return [stat and {**stat, "prompts": len(both)} for stat in found]


def gain_numbers(base: Measured, tuned: Measured, prompts: Sequence[str], draws: Draws) -> dict[str, Any]:
    """The paired gain of the greedy answer."""
    before, after = ([m["greedy"][p] for p in prompts] for m in (base, tuned))
    gain = paired_gain(before, after, draws.resamples, draws.seed)
    graded = {*before, *after} <= {0.0, 1.0}
    return {
        "mean": gain.mean,
        "ci": [gain.low, gain.high],
        "prompts": len(prompts),
        "p_mcnemar": mcnemar(before, after) if graded else None,
    }


def bake_in_numbers(base: Measured, tuned: Measured, prompts: Sequence[str], draws: Draws) -> dict[str, Any]:
    """Share of the base's best-of-N headroom that one tuned answer has, for the greedy answer and for a sampled one."""
    best = base.get("best_of_n", {})
    if not all(p in best for p in prompts):
        return {"greedy": None, "sampled": None}
    ceiling = [best[p] for p in prompts]

    def share(values: Sequence[Sequence[float]]) -> dict[str, float] | None:
        return _named(bake_in(values[0], values[1], ceiling, draws.resamples, draws.seed))

    return {
        "greedy": share([[m["greedy"][p] for p in prompts] for m in (base, tuned)]),
        "sampled": share([[m["correct"][p] / m["samples"][p] for p in prompts] for m in (base, tuned)]),
    }


def result_of(gain: Mapping[str, Any], same_policy: bool) -> str:
    """`gain` or `worse` where the interval leaves 0 out, `no gain` otherwise or when nothing was tuned."""
    low, high = gain["ci"]
    if same_policy or low <= 0 <= high:
        return "no gain"
    return "gain" if low > 0 else "worse"


def length_edges(longest: int, bins: int = 16) -> list[int]:
    """Edges of at most `bins` equal bins from 0 that hold `longest`, with a round width."""
    width, steps = 1, (2, 5, 10)
    while width * bins <= longest:
        scale = 10 ** (len(str(width)) - 1)
        width = next(step * scale for step in steps if step * scale > width)
    return [width * i for i in range(longest // width + 2)]


def binned(edges: Sequence[float], counts: Iterable[tuple[float, int]]) -> list[int]:
    """Count values into bins `[edge, next)`; the last bin holds its upper edge too."""
    found = [0] * (len(edges) - 1)
    for value, count in counts:
        place = sum(value >= edge - 1e-12 for edge in edges[1:-1])
        found[place] += count
    return found


def rounded(value: Any) -> Any:
    """Round every float in a JSON-like value to 6 digits; minus zero becomes zero.

    Raises:
        ValueError: a number is not finite, which no card can show.
    """
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"got {value} in the card, wanted finite numbers: see `taolake tables evaluations`")
        return round(value, _DIGITS) + 0.0
    return value


def _pass_at(measured: Measured, prompts: Sequence[str]) -> dict[str, float]:
    """Mean pass@k by k, for every k that was measured."""
    ks = sorted(int(metric.removeprefix("pass_at_")) for metric in measured if metric.startswith("pass_at_"))
    means = {str(k): _mean([measured[f"pass_at_{k}"].get(p) for p in prompts]) for k in ks}
    return {k: mean for k, mean in means.items() if mean is not None}


def stat(values: Mapping[str, float], prompts: Sequence[str], draws: Draws) -> dict[str, float] | None:
    """Mean of a metric over the prompts that have it, with its interval; None where none has."""
    known = [values[p] for p in prompts if p in values]
    return _named(bootstrap(known, draws.resamples, draws.seed)) if known else None


def _named(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else {"mean": interval.mean, "low": interval.low, "high": interval.high}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
