"""How far what comes in now is from what came in before: population stability, and the distance of mean embeddings.

Neither says whether it matters. PSI of two windows of equal origin is about bins / n on each side, so windows of few
rows drift by themselves: `noise` says how much.
"""

import math
from collections.abc import Mapping, Sequence

_PRIOR = 0.5  # rows added to each bin: an empty one is rare, not impossible


def stability(before: Mapping[str, int], now: Mapping[str, int]) -> float | None:
    """Population stability index, sum (q - p) log (q / p) over the bins of either; None where a side is empty.

    Usual reading (credit scoring): below 0.1 the same, above 0.25 another population.
    """
    if not sum(before.values()) or not sum(now.values()):
        return None
    bins = sorted({*before, *now})
    p, q = (_shares(side, bins) for side in (before, now))
    return sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))


def noise(before: Mapping[str, int], now: Mapping[str, int]) -> float:
    """What the index is expected to be where nothing changed: (bins - 1) (1 / n + 1 / m)."""
    n, m = sum(before.values()), sum(now.values())
    return (len({*before, *now}) - 1) * (1 / n + 1 / m) if n and m else 0.0


def distance(before: Sequence[float], now: Sequence[float]) -> float:
    """1 - cosine of two mean embeddings."""
    size = math.hypot(*before) * math.hypot(*now)
    return 1 - sum(a * b for a, b in zip(before, now, strict=True)) / size if size else 0.0


def _shares(side: Mapping[str, int], bins: Sequence[str]) -> list[float]:
    total = sum(side.values()) + _PRIOR * len(bins)
    return [(side.get(name, 0) + _PRIOR) / total for name in bins]
