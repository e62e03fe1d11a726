"""Estimators and the promotion rule."""

import math
from itertools import combinations

import numpy as np
import pytest

from taolake.verdict import Guard, Interval, bake_in, bootstrap, decide, mcnemar, paired_gain, pass_at_k


@pytest.mark.parametrize("n", [1, 4, 6])
def test_pass_at_k_equals_enumeration(n: int) -> None:
    for c in range(n + 1):
        for k in range(1, n + 1):
            subsets = list(combinations([i < c for i in range(n)], k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(any(s) for s in subsets) / len(subsets), abs=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0)])
def test_pass_at_k_refuses_impossible_counts(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="wanted"):
        pass_at_k(n, c, k)


def test_bootstrap_of_a_constant_has_no_width() -> None:
    assert bootstrap([0.25] * 9, 200, 0) == Interval(0.25, 0.25, 0.25)
    assert bootstrap([0.7], 200, 0) == Interval(0.7, 0.7, 0.7)


def test_bootstrap_matches_the_normal_approximation_and_its_seed() -> None:
    values = (np.arange(400) % 2).astype(float).tolist()
    found = bootstrap(values, 4000, 3)
    half = 1.96 * 0.5 / math.sqrt(400)
    assert found == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=0.005)
    assert found == bootstrap(values, 4000, 3)
    assert found != bootstrap(values, 4000, 4)


def test_bootstrap_is_the_same_in_one_block_or_many(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [0.0, 1.0, 1.0, 0.5, 0.25]
    whole = bootstrap(values, 301, 1)
    monkeypatch.setattr("taolake.verdict._CELLS", 35)
    assert bootstrap(values, 301, 1) == whole


def test_gain_is_paired() -> None:
    before = [0.0, 1.0] * 20
    found = paired_gain(before, [b + 0.1 for b in before], 500, 0)
    assert found == pytest.approx((0.1, 0.1, 0.1), abs=1e-12)  # unpaired, its width would be about 0.4
    swapped = paired_gain([1.0, 0.0], [0.0, 0.0], 500, 0)
    assert swapped == Interval(-0.5, -1.0, 0.0)


def test_bake_in() -> None:
    before = [0.2, 0.4, 0.6, 0.2]
    best = [b + 0.4 for b in before]
    assert bake_in(before, [b + 0.3 for b in before], best, 300, 0) == pytest.approx((0.75, 0.75, 0.75), abs=1e-9)
    assert bake_in(before, [b - 0.1 for b in before], best, 300, 0) == pytest.approx((-0.25,) * 3, abs=1e-9)


def test_bake_in_resamples_numerator_and_denominator_together() -> None:
    room = [0.1, 0.5] * 20
    found = bake_in([0.0] * 40, [r / 2 for r in room], room, 500, 0)
    assert found == pytest.approx((0.5, 0.5, 0.5), abs=1e-9)  # drawn apart, the ratio would spread


def test_bake_in_does_not_change_sign_where_a_resample_has_no_headroom() -> None:
    room = [0.75 + 2.5 * math.sin(i) for i in range(25)]
    below = bootstrap(room, 4000, 0)
    found = bake_in([0.0] * 25, [0.1] * 25, room, 4000, 0)
    assert found is not None and 0.02 < below.low < 0.1  # so one resample in fifty is below 0.02
    assert (found.low, found.high) == pytest.approx((0.1 / below.high, 0.1 / below.low), rel=1e-3)


@pytest.mark.parametrize("room", [[0.0] * 8, [0.02] * 8, [0.3, -0.3] * 4, [-0.5] * 8])
def test_no_headroom_no_ratio(room: list[float]) -> None:
    assert bake_in([0.5] * 8, [0.6] * 8, [0.5 + r for r in room], 300, 0) is None


@pytest.mark.parametrize(
    ("lost", "won", "p"),
    [(12, 27, 0.0237), (27, 12, 0.0237), (0, 0, 1.0), (1, 0, 1.0), (0, 5, 0.0625), (3, 3, 1.0), (0, 10, 2 / 1024)],
)
def test_mcnemar(lost: int, won: int, p: float) -> None:
    before = [1.0] * lost + [0.0] * won + [1.0, 0.0]
    after = [0.0] * lost + [1.0] * won + [1.0, 0.0]
    assert mcnemar(before, after) == pytest.approx(p, abs=5e-5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: bootstrap([], 100, 0),
        lambda: bootstrap([0.1, math.nan], 100, 0),
        lambda: paired_gain([0.1], [0.1, 0.2], 100, 0),
        lambda: bake_in([0.1], [0.1], [0.1, 0.2], 100, 0),
        lambda: mcnemar([0.5], [1.0]),
        lambda: mcnemar([], []),
    ],
)
def test_malformed_values_are_refused(call: object) -> None:
    with pytest.raises(ValueError, match="got"):
        call()  # type: ignore[operator]


FINE = Guard("truncated", 0.01, 0.05, True)
LONG = Guard("length_growth", 0.62, 0.5, False)


@pytest.mark.parametrize(
    ("gain", "guards", "min_gain", "promoted", "says"),
    [
        (Interval(0.1, 0.05, 0.15), [FINE], 0.0, True, ["+0.100", "1 of 1 guards"]),
        (Interval(0.1, 0.05, 0.15), [], 0.0, True, ["+0.050"]),
        (Interval(0.1, 0.0, 0.15), [FINE], 0.0, False, ["no gain", "+0.000"]),
        (Interval(0.1, 0.05, 0.15), [FINE], 0.05, False, ["no gain", "0.05"]),
        (Interval(0.1, 1e-17, 0.15), [FINE], 0.0, False, ["no gain", "+0.000"]),
        (Interval(0.0, -0.1, 0.0), [FINE], 0.0, False, ["no gain", "-0.100"]),
        (Interval(-0.2, -0.3, -0.1), [FINE], 0.0, False, ["worse", "-0.100"]),
        (Interval(0.1, 0.05, 0.15), [FINE, LONG], 0.0, False, ["length_growth is 0.62, limit 0.5"]),
        (Interval(0.0, -0.1, 0.1), [LONG], 0.0, False, ["no gain"]),
        (Interval(math.nan, math.nan, math.nan), [FINE], 0.0, False, ["could not be measured"]),
    ],
)
def test_decide(gain: Interval, guards: list[Guard], min_gain: float, promoted: bool, says: list[str]) -> None:
    verdict = decide(gain, guards, min_gain)
    assert verdict.promoted is promoted
    assert [text for text in says if text not in verdict.reason] == []
    assert "\n" not in verdict.reason
    assert ("truncated" in verdict.reason) is False
