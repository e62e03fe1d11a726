"""Intervals from counts and sums alone, for windows too large to resample. Two-sided 95 %, one request a unit."""

import math

from taolake.verdict import Interval

_Z = 1.959963984540054


def share(hits: float, n: int) -> Interval | None:
    """Wilson's interval of a share; None without rows."""
    if not n:
        return None
    p, weight = hits / n, _Z**2 / n
    middle = (p + weight / 2) / (1 + weight)
    half = _Z * math.sqrt(p * (1 - p) / n + weight / (4 * n)) / (1 + weight)
    return Interval(p, max(0.0, middle - half), min(1.0, middle + half))


def mean(value: float | None, spread: float | None, n: int) -> Interval | None:
    """Normal interval of a mean from its sample deviation; None without rows, no width to speak of from one."""
    if value is None or not n:
        return None
    half = _Z * (spread or 0.0) / math.sqrt(n) if n > 1 else math.inf
    return Interval(value, value - half, value + half)
