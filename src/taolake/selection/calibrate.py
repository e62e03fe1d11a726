"""Differences of reward become chances that a person prefers one answer over another of its prompt.

Fitted on pairs people ordered, and symmetric: a pair read backwards must say the opposite, so every pair is used both
ways round. Not the weighing of scorers (`combine`), and no offset of a prompt is learned: only differences mean much.
Formulas: docs/design.md, section 6. Sources: Platt 1999 (slope, smoothed targets); Zadrozny and Elkan 2002 (isotonic).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["identity", "platt", "isotonic"]

_STEPS = 100  # Newton's steps; it takes about ten


@dataclass(frozen=True)
class Calibration:
    """A rising map from a difference of rewards to a chance; what it holds is JSON as it is.

    Attributes:
        kind: `identity` reads a difference d as (1 + d) / 2, which is right at -1, 0 and 1 and a rule of thumb between.
        pairs: pairs it was fitted on.
        knots: `platt`: the slope alone; `isotonic`: differences at which the chance is known, rising.
        chances: `isotonic`: the chance at each knot; between knots it is interpolated, outside them it is flat.
    """

    kind: Kind = "identity"
    pairs: int = 0
    knots: tuple[float, ...] = ()
    chances: tuple[float, ...] = ()

    def apply(self, difference: float) -> float:
        """Chance that a person prefers the answer whose reward is greater by `difference`."""
        match self.kind:
            case "identity":
                return min(max((1 + difference) / 2, 0.0), 1.0)
            case "platt":
                return logistic(self.knots[0] * difference)
            case "isotonic":
                return float(np.interp(difference, self.knots, self.chances))


def fit(
    kind: Literal["platt", "isotonic"], differences: Sequence[float], outcomes: Sequence[float], min_pairs: int = 1
) -> Calibration:
    """Fit a map on pairs; with fewer than `min_pairs` the identity comes back.

    Args:
        kind: `platt` has one parameter and is the choice below a thousand pairs; `isotonic` takes any rising shape.
        differences: reward of the pair's first answer minus that of its second.
        outcomes: 1 where a person preferred the first answer, 0 where the second; 0.5 is a tie.
        min_pairs: fewer pairs than this say too little.
    """
    d, y = np.asarray(differences, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    if d.shape != y.shape or not bool(np.isfinite(d).all()) or not bool(((y >= 0) & (y <= 1)).all()):
        raise ValueError(
            f"got {d.size} differences and {y.size} outcomes, wanted as many of each, finite and from 0 to 1"
        )
    if d.size < max(min_pairs, 1):
        return Calibration()
    both, said = np.concatenate([d, -d]), np.concatenate([y, 1 - y])
    return _platt(both, said, d.size) if kind == "platt" else _isotonic(both, said, d.size)


def win_rates(rewards: Sequence[float | None], calibration: Calibration) -> list[float | None]:
    """Each candidate's mean chance that a person prefers it over another scored candidate of its group.

    One that is alone is worth 0.5: there is nothing to prefer it over.
    """
    known = [(i, reward) for i, reward in enumerate(rewards) if reward is not None]
    found: list[float | None] = [None] * len(rewards)
    for i, mine in known:
        chances = [calibration.apply(mine - other) for j, other in known if j != i]
        found[i] = math.fsum(chances) / len(chances) if chances else 0.5
    return found


def logistic(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _platt(d: NDArray[np.float64], y: NDArray[np.float64], pairs: int) -> Calibration:
    """One slope, at least 0; targets are drawn in by one pair a side, so that a perfect order keeps it finite."""
    scale = float(np.abs(d).max())
    if scale == 0:
        return Calibration("platt", pairs, (0.0,))
    x, smooth = d / scale, 1 / (pairs + 2)
    target = y * (1 - 2 * smooth) + smooth
    slope = 0.0
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(slope * x, -500, 500)))
        curvature = float((p * (1 - p) * x * x).sum()) + 1e-12
        # A damped step: on data almost in order the curvature dies out long before the slope is right.
        step = float(np.clip(float(((target - p) * x).sum()) / curvature, -10, 10))
        slope += step
        if abs(step) < 1e-12:
            break
    return Calibration("platt", pairs, (max(round(slope / scale, 12), 0.0),))


def _isotonic(d: NDArray[np.float64], y: NDArray[np.float64], pairs: int) -> Calibration:
    """Pool adjacent violators over both readings of every pair; knots are the blocks' means."""
    from scipy.optimize import isotonic_regression

    xs, place = np.unique(np.round(d, 12) + 0.0, return_inverse=True)
    weights = np.bincount(place).astype(np.float64)
    means = np.bincount(place, weights=y) / weights
    fitted = isotonic_regression(means, weights=weights)
    edges, counts = np.asarray(fitted.blocks), np.add.reduceat(weights, fitted.blocks[:-1])
    knots = np.add.reduceat(xs * weights, edges[:-1]) / counts
    # No finite number of choices makes anything certain: one imagined pair a side keeps 0 and 1 away.
    low = 1 / (pairs + 2)
    chances = np.clip(fitted.x[edges[:-1]], low, 1 - low)
    # Symmetry holds up to the order in which sums were taken; made exact, a pair and its reverse add up to 1.
    knots, chances = (knots - knots[::-1]) / 2, (chances + 1 - chances[::-1]) / 2
    return Calibration("isotonic", pairs, tuple(map(float, knots.round(12))), tuple(map(float, chances.round(12))))
