"""Calibration: symmetric, rising, finite, the same twice; exact where a case is small enough to work out."""

import dataclasses
import json
import math

import numpy as np
import pytest

from taolake.selection.calibrate import Calibration, fit, logistic, win_rates

RNG = np.random.default_rng(5)
D = RNG.normal(size=300)
Y = (RNG.random(300) < 1 / (1 + np.exp(-3 * D))).astype(float)


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_a_map_rises_and_a_pair_read_backwards_says_the_opposite(kind: str) -> None:
    made = fit(kind, D.tolist(), Y.tolist())  # type: ignore[arg-type]
    grid = np.linspace(-4, 4, 161)
    chances = np.array([made.apply(float(d)) for d in grid])
    assert np.diff(chances).min() >= 0 and chances[0] < 0.05 < 0.95 < chances[-1] < 1
    assert np.abs(chances + chances[::-1] - 1).max() < 1e-9
    assert made.pairs == 300 and made == fit(kind, D.tolist(), Y.tolist())  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_the_true_chance_comes_out(kind: str) -> None:
    made = fit(kind, D.tolist(), Y.tolist())  # type: ignore[arg-type]
    off = [abs(made.apply(d) - logistic(3 * d)) for d in (-1.0, -0.5, 0.25, 0.5, 1.0)]
    assert max(off) < 0.1


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_order_of_the_pairs_does_not_matter(kind: str) -> None:
    made = fit(kind, D.tolist(), Y.tolist())  # type: ignore[arg-type]
    turned = fit(kind, (-D[::-1]).tolist(), (1 - Y[::-1]).tolist())  # type: ignore[arg-type]
    assert made.knots == pytest.approx(turned.knots) and made.chances == pytest.approx(turned.chances)


def test_isotonic_by_hand() -> None:
    made = fit("isotonic", [0.1, 0.2, 0.2, 0.3, 0.4], [1, 0, 1, 1, 1])
    # Read both ways: -0.4 .. 0.4. At 0.1 the mean is 1 and at 0.2 one half, so both pool: (1 + 0 + 1) / 3.
    assert made.knots == pytest.approx((-0.35, -0.5 / 3, 0.5 / 3, 0.35))
    assert made.chances == pytest.approx((1 / 7, 1 / 3, 2 / 3, 6 / 7)), "0 and 1 are one imagined pair away"


@pytest.mark.parametrize(
    ("differences", "outcomes", "at_1"),
    [
        ([1.0, 1.0, 1.0], [1, 1, 1], 0.8),  # smoothed target (3 + 1) / (3 + 2)
        ([1.0, 1.0], [0, 0], 0.5),  # a scorer that is always wrong cannot be turned round
        ([0.0, 0.0], [1, 0], 0.5),
        ([1.0, 1.0, 1.0, 1.0], [1, 1, 1, 0], 4 / 6),  # 3/4 * (1 - 2/6) + 1/6
    ],
)
def test_platt_by_hand(differences: list[float], outcomes: list[float], at_1: float) -> None:
    assert fit("platt", differences, outcomes).apply(1.0) == pytest.approx(at_1)


def test_a_perfect_order_keeps_a_finite_slope() -> None:
    made = fit("platt", [1e-6] * 5 + [1e6], [1] * 6)
    assert 0 < made.knots[0] < math.inf and made.apply(1e9) <= 1


def test_too_few_pairs_leave_the_rule_of_thumb() -> None:
    made = fit("platt", [0.5] * 49, [1] * 49, min_pairs=50)
    assert made == Calibration() and fit("isotonic", [], []) == Calibration()
    assert [made.apply(d) for d in (-2, -1, 0, 0.5, 1)] == [0.0, 0.0, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(("d", "y"), [([1.0], []), ([math.nan], [1]), ([1.0], [2]), ([math.inf], [0])])
def test_malformed_pairs_are_refused(d: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match="wanted as many"):
        fit("platt", d, y)


def test_it_is_json() -> None:
    made = fit("isotonic", D.tolist(), Y.tolist())
    again = json.loads(json.dumps(dataclasses.asdict(made)))
    assert Calibration(again["kind"], again["pairs"], tuple(again["knots"]), tuple(again["chances"])) == made


def test_win_rates() -> None:
    even = Calibration("platt", 9, (math.log(3),))  # a difference of 1 is three to one
    assert win_rates([1.0, 0.0], even) == pytest.approx([0.75, 0.25])
    assert win_rates([1.0, None, 0.0, 1.0], even) == pytest.approx([0.625, None, 0.25, 0.625])
    assert win_rates([0.3], even) == [0.5] and win_rates([None], even) == [None]
