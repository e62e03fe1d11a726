"""Is the new version worse? A test that may be looked at after every request and stopped at any of them.

Two versions answer at the same time, each request going to one of them by chance. What came in since the last pair is
averaged on both sides and makes one difference in [-1, 1]; a trend over days touches both sides alike. A bettor stakes
a share of its capital on the sign of the next difference. Where the versions are equal the bet is fair, so its capital
passes 1 / alpha with a chance of at most alpha, ever (Ville). The share is not known beforehand: a mixture of shares is
held from the start. Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (arXiv
2010.09686); the mixture is Robbins'. Not here: which signals there are, and what
is done about it (`canary`).
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Shares of the capital: small ones find small differences late, large ones large differences early.
_STAKES = np.geomspace(0.01, 0.95, 16)
_STEP = 0.001  # of the interval's ends
_SURE = 1e12  # capital beyond this says no more

Array = NDArray[np.float64]


class Word(NamedTuple):
    """One signal about one answer: when it came, whether of the new version, and how good, 0 to 1."""

    at: float
    canary: bool
    value: float


class Pair(NamedTuple):
    """A difference, new version less live one, and when it was complete."""

    at: float
    difference: float


class Capital(NamedTuple):
    """A bettor's capital after every pair, and when each was complete."""

    at: Array
    value: Array

    @property
    def most(self) -> float:
        """The most it ever had; 1 before the first bet."""
        return float(self.value.max(initial=1.0))


class Reading(NamedTuple):
    """The difference so far, with an interval that holds at every look at once."""

    pairs: int
    mean: float
    low: float
    high: float


def pairs(words: Iterable[Word]) -> list[Pair]:
    """Differences in the order in which they became complete.

    Raises:
        ValueError: a value outside 0 to 1.
    """
    found: list[Pair] = []
    waiting: tuple[list[float], list[float]] = ([], [])
    for word in sorted(words):
        if not 0 <= word.value <= 1:
            raise ValueError(f"got a signal of {word.value}, wanted 0 to 1: scale it before it is compared")
        waiting[word.canary].append(word.value)
        live, canary = waiting
        if live and canary:
            found.append(Pair(word.at, sum(canary) / len(canary) - sum(live) / len(live)))
            waiting = ([], [])
    return found


def against_equal(of: Sequence[Pair]) -> Capital:
    """Capital of who bets that the new version is worse; it grows by chance only where it is not."""
    return Capital(_times(of), _capital(-_differences(of)))


def against_margin(of: Sequence[Pair], margin: float) -> Capital:
    """Capital of who bets that the new version is not worse by `margin`; it grows by chance only where it is."""
    return Capital(_times(of), _capital((_differences(of) + margin) / (1 + margin)))


def together(capitals: Sequence[Capital]) -> Capital:
    """The mean capital of several bettors over time: a mean of fair bets is a fair bet, whatever links the signals."""
    times = np.unique(np.concatenate([c.at for c in capitals])) if capitals else np.empty(0)
    if not len(times):
        return Capital(times, times)
    held = [np.concatenate([np.ones(1), c.value])[np.searchsorted(c.at, times, side="right")] for c in capitals]
    return Capital(times, np.mean(held, axis=0))


def crossed(capital: Capital, alpha: float) -> float | None:
    """When the capital first reached 1 / alpha; None where it never did."""
    beyond = np.flatnonzero(capital.value >= 1 / alpha)
    return float(capital.at[beyond[0]]) if len(beyond) else None


def reading(of: Sequence[Pair], alpha: float) -> Reading:
    """The mean difference and its interval, [-1, 1] where there is nothing to read.

    Each end is where the bettor against it has won 2 / alpha: the capital falls, or rises, with the end it bets on.
    """
    if not of:
        return Reading(0, 0.0, -1.0, 1.0)
    values, mean = _differences(of), float(_differences(of).mean())
    low = _end(lambda end: _last((values - end) / (1 + end)) < 2 / alpha, -1.0, mean)
    high = -_end(lambda end: _last((-values - end) / (1 + end)) < 2 / alpha, -1.0, -mean)
    return Reading(len(of), mean, low, high)


def _end(inside: Callable[[float], bool], low: float, high: float) -> float:
    """Where `inside` begins to hold between two ends, halved until it is known to a thousandth; rounded outwards."""
    while high - low > _STEP:
        middle = (low + high) / 2
        low, high = (low, middle) if inside(middle) else (middle, high)
    return low


def _capital(gains: Array) -> Array:
    """After every gain in [-1, 1], the mean capital over all stakes."""
    logs = np.log1p(np.outer(gains, _STAKES)).cumsum(axis=0)
    grown: Array = np.exp(np.minimum(logs, np.log(_SURE))).mean(axis=1)
    return grown


def _last(gains: Array) -> float:
    logs = np.log1p(np.outer(gains, _STAKES)).sum(axis=0)
    return float(np.exp(np.minimum(logs, np.log(_SURE))).mean())


def _differences(of: Sequence[Pair]) -> Array:
    return np.array([pair.difference for pair in of], dtype=np.float64)


def _times(of: Sequence[Pair]) -> Array:
    return np.array([pair.at for pair in of], dtype=np.float64)


def first_of_each(words: Iterable[tuple[str, Word]]) -> list[Word]:
    """The first word of everyone: what one person says of many answers of one version is not news each time."""
    order = sorted(words, key=lambda each: (each[0], each[1]))
    return sorted(next(group)[1] for _, group in itertools.groupby(order, key=lambda each: each[0]))
