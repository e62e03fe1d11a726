"""Is the tuned model better, and how much of best-of-N was baked in? Estimators, intervals, the promotion rule.

One prompt is one unit (`_P`): intervals resample prompts, and always keep a prompt's before and after together.
Not a search over checkpoints: each call judges one comparison. Formulas: docs/design.md, section 6.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MIN_HEADROOM = 0.02  # below this a bake-in ratio divides by noise
_CELLS = 2_000_000  # resampled values held at once
_DIGITS = 12  # limits are not passed on the last bit of a sum

Array = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate and its two-sided 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Guard:
    """A side condition on promotion: what was measured, its limit, and whether it holds."""

    name: str
    value: float
    limit: float
    ok: bool


@dataclass(frozen=True)
class Verdict:
    """Whether the tuned model is promoted, and the sentence that says why."""

    promoted: bool
    reason: str


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that k of n samples, c of them correct, hold a correct one: 1 - C(n-c, k) / C(n, k)."""
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"got n={n}, c={c}, k={k}, wanted 0 <= c <= n and 1 <= k <= n: draw more samples or lower k")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def bootstrap(values_P: Sequence[float], resamples: int, seed: int) -> Interval:
    """Mean over prompts with a percentile interval over resampled prompts."""
    values = _columns(values_P)
    return _interval(float(values.mean()), _resampled_means(values, resamples, seed)[:, 0])


def paired_gain(before_P: Sequence[float], after_P: Sequence[float], resamples: int, seed: int) -> Interval:
    """Mean of after - before over the same prompts, resampled in pairs."""
    columns = _columns(before_P, after_P)
    return bootstrap((columns[:, 1] - columns[:, 0]).tolist(), resamples, seed)


def bake_in(
    before_P: Sequence[float], after_P: Sequence[float], best_of_n_P: Sequence[float], resamples: int, seed: int
) -> Interval | None:
    """Share of the best-of-N headroom that one answer now has: (after - before) / (best-of-N before - before).

    Numerator and denominator are resampled together. None when there is no headroom to speak of: the denominator's
    lower 95 % bound is not above `MIN_HEADROOM`. The few resamples below it are held there, lest they change sign.
    """
    columns = _columns(before_P, after_P, best_of_n_P)
    gains = np.stack([columns[:, 1] - columns[:, 0], columns[:, 2] - columns[:, 0]], axis=1)
    means = _resampled_means(gains, resamples, seed)
    if round(float(np.percentile(means[:, 1], 2.5)), _DIGITS) <= MIN_HEADROOM:
        return None
    ratios = means[:, 0] / np.maximum(means[:, 1], MIN_HEADROOM)
    return _interval(float(gains[:, 0].mean() / gains[:, 1].mean()), ratios)


def mcnemar(before_P: Sequence[float], after_P: Sequence[float]) -> float:
    """Exact two-sided p-value that a 0/1 outcome did not change: a fair coin over the prompts where it did."""
    columns = _columns(before_P, after_P)
    if not bool(np.isin(columns, (0.0, 1.0)).all()):
        raise ValueError("got an outcome that is not 0 or 1; McNemar's test takes one graded answer a prompt")
    lost = int((columns[:, 0] > columns[:, 1]).sum())
    won = int((columns[:, 0] < columns[:, 1]).sum())
    n = lost + won
    tail = sum(math.comb(n, i) for i in range(min(lost, won) + 1))
    return min(1.0, float(2 * tail / 2**n))


def decide(gain: Interval, guards: Sequence[Guard], min_gain: float) -> Verdict:
    """Promote when the gain's lower bound exceeds `min_gain` and every guard holds; else name what failed."""
    measured = f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
    if any(math.isnan(x) for x in gain):
        return Verdict(False, f"the gain could not be measured: {measured}")
    if gain.high < 0:
        return Verdict(False, f"the tuned model is worse: gain {measured} has an upper bound of {gain.high:+.3f}")
    if round(gain.low, _DIGITS) <= min_gain:
        return Verdict(False, f"no gain: the lower bound {gain.low:+.3f} of {measured} does not exceed {min_gain:g}")
    failed = [f"{g.name} is {g.value:g}, limit {g.limit:g}" for g in guards if not g.ok]
    if failed:
        return Verdict(False, f"the gain is {measured}, but {'; '.join(failed)}")
    return Verdict(True, f"the gain is {measured}, above {min_gain:g}, and {len(guards)} of {len(guards)} guards hold")


def _columns(*values: Sequence[float]) -> Array:
    """Prompts in rows; every column must measure the same prompts."""
    lengths = [len(column) for column in values]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise ValueError(f"got columns of {lengths} prompts, wanted the same prompts in each and at least one")
    columns = np.array([list(column) for column in values], dtype=np.float64).T
    if not bool(np.isfinite(columns).all()):
        raise ValueError("got NaN or infinity among the values, wanted one number a prompt: leave unscored prompts out")
    return columns


def _resampled_means(columns: Array, resamples: int, seed: int) -> Array:
    """Column means of each bootstrap resample of the rows, in blocks that bound the memory."""
    rng = np.random.default_rng(seed)
    rows = len(columns)
    block = max(1, _CELLS // columns.size)
    sizes = [min(block, resamples - start) for start in range(0, resamples, block)]
    return np.concatenate([columns[rng.integers(0, rows, (size, rows))].mean(axis=1) for size in sizes])


def _interval(mean: float, resampled: Array) -> Interval:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(mean, float(low), float(high))
