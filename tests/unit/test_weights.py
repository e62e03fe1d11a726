"""Best-of-k weights against enumeration of every subset, OAPL's value, and the seeded draw."""

import math
from itertools import combinations

import pytest

from taolake.selection.weights import advantages, best_of_k, different_in, draw, order_statistic_weights, tilt, value
from taolake.trust.curve import kl_of_best_of

GROUPS = [
    [0.5],
    [0.1, 0.9],
    [0.3, 0.3, 0.3],
    [0.9, 0.1, 0.5, 0.5, 0.2],
    [0.0, 0.0, 1.0, 1.0, 1.0, 0.5],
    [0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1],
]


def enumerated(rewards: list[float], gold: list[float], k: int) -> tuple[list[float], float]:
    """Weights and best-of-k over all subsets of k, ties shared evenly."""
    subsets = list(combinations(range(len(rewards)), min(k, len(rewards))))
    weights = [0.0] * len(rewards)
    for subset in subsets:
        top = max(rewards[i] for i in subset)
        winners = [i for i in subset if rewards[i] == top]
        for i in winners:
            weights[i] += 1 / len(winners) / len(subsets)
    return weights, sum(w * g for w, g in zip(weights, gold, strict=True))


@pytest.mark.parametrize("k", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("rewards", GROUPS)
def test_weights_and_best_of_k_equal_enumeration(rewards: list[float], k: int) -> None:
    gold = [float(i % 2) + i / 10 for i in range(len(rewards))]
    weights, expected = enumerated(rewards, gold, k)
    assert order_statistic_weights(rewards, k) == pytest.approx(weights, abs=1e-12)
    assert best_of_k(rewards, gold, k) == pytest.approx(expected, abs=1e-12)


def test_published_weights() -> None:
    found = order_statistic_weights([1, 2, 3, 4, 5, 6, 7, 8], 4)
    assert [round(w, 3) for w in found] == [0, 0, 0, 0.014, 0.057, 0.143, 0.286, 0.5]
    assert order_statistic_weights([], 4) == []
    assert math.fsum(order_statistic_weights([i % 7 for i in range(500)], 40)) == pytest.approx(1, abs=1e-12)


def test_best_of_one_is_the_mean_and_of_all_the_top() -> None:
    assert best_of_k([0.1, 0.2, 0.3], [1, 0, 0.5], 1) == pytest.approx(0.5)
    assert best_of_k([0.1, 0.2, 0.3], [1, 0, 0.5], 3) == 0.5


@pytest.mark.parametrize(
    ("rewards", "beta_v", "expected"),
    [
        ([0.5], 1.0, 0.5),
        ([0.5, 0.5], 0.1, 0.5),
        ([0.0, 1.0], 1.0, math.log((1 + math.e) / 2)),
        ([0.0, 1.0], 0.5, 0.5 * math.log((1 + math.e**2) / 2)),
        ([0.0, 1.0], 1e-6, 1 - 1e-6 * math.log(2)),
        ([1000.0, 1001.0], 1.0, 1000 + math.log((1 + math.e) / 2)),
    ],
)
def test_value(rewards: list[float], beta_v: float, expected: float) -> None:
    assert value(rewards, beta_v) == pytest.approx(expected, abs=1e-10)
    assert advantages(rewards, beta_v) == pytest.approx([r - expected for r in rewards], abs=1e-10)


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_tilting_by_ranks_makes_the_base_best_of_k(k: int) -> None:
    """exp(tilt) over the candidates, normalised, is the chance to win a random best-of-k, up to terms of 1 / n."""
    rewards = [(i * 37) % 101 / 100 for i in range(100)]
    powers = [math.exp(t) for t in tilt(rewards, k)]
    found = [p / math.fsum(powers) for p in powers]
    exact = order_statistic_weights(rewards, k)
    assert sum(abs(a - b) for a, b in zip(found, exact, strict=True)) / 2 < 0.04
    # At beta = beta_v = 1 the advantage is the log-ratio itself, and the tilted base adds up to 1.
    assert math.fsum(math.exp(a) for a in advantages(tilt(rewards, k), 1.0)) / 100 == pytest.approx(1, abs=1e-9)


def test_tilt_shares_ranks_among_ties_and_ignores_the_scale() -> None:
    assert tilt([0.2, 0.9, 0.2, 0.5], 3) == pytest.approx([2 * math.log(x) for x in (0.25, 0.875, 0.25, 0.625)])
    assert tilt([0.2, 0.9, 0.2, 0.5], 3) == tilt([2, 90, 2, 5], 3)
    assert tilt([0.7, 0.7], 5) == pytest.approx([4 * math.log(0.5)] * 2)
    assert tilt([], 2) == []


def test_the_tilt_is_as_far_from_the_base_as_best_of_k() -> None:
    """KL(best-of-k || base) = log k - (k-1)/k, for candidates that do not tie and a base that is flat over them."""
    for k in (2, 4, 8, 16):
        won = order_statistic_weights([float(i) for i in range(4000)], k)
        distance = math.fsum(w * math.log(w * 4000) for w in won if w > 0)
        assert distance == pytest.approx(math.log(k) - (k - 1) / k, abs=0.01)
        assert distance == pytest.approx(kl_of_best_of(k), abs=0.01)


def test_draw_is_seeded_and_without_replacement() -> None:
    weights = [0.1, 0.0, 0.4, 0.5, 0.0]
    for seed in range(50):
        found = draw(weights, 2, seed)
        assert len(set(found)) == 2 and not {1, 4} & set(found)
        assert found == draw(weights, 2, seed)
    assert len({tuple(draw(weights, 2, seed)) for seed in range(50)}) > 3
    assert sorted(draw(weights, 9, 1)) == [0, 2, 3]
    assert draw(weights, 0, 1) == draw([], 3, 1) == draw([0.0, 0.0], 3, 1) == []


def test_draw_follows_the_weights() -> None:
    weights, runs = [1.0, 2.0, 5.0], 4000
    draws = [draw(weights, 2, seed) for seed in range(runs)]
    first = [sum(d[0] == i for d in draws) / runs for i in range(3)]
    assert first == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.03)
    after_last = [d[1] for d in draws if d[0] == 2]
    assert sum(i == 1 for i in after_last) / len(after_last) == pytest.approx(2 / 3, abs=0.04)


@pytest.mark.parametrize(
    "call",
    [
        lambda: order_statistic_weights([0.1, math.nan], 2),
        lambda: order_statistic_weights([0.1], 0),
        lambda: tilt([0.1, math.nan], 2),
        lambda: tilt([0.1], 0),
        lambda: best_of_k([0.1], [1, 2], 1),
        lambda: best_of_k([], [], 1),
        lambda: best_of_k([0.1], [math.nan], 1),
        lambda: value([], 1.0),
        lambda: value([0.1], 0.0),
        lambda: value([math.inf], 1.0),
        lambda: draw([0.5, -0.1], 1, 0),
        lambda: draw([math.nan], 1, 0),
        lambda: draw([1.0], -1, 0),
    ],
)
def test_malformed_numbers_are_refused(call: object) -> None:
    with pytest.raises(ValueError, match="wanted"):
        call()  # type: ignore[operator]


@pytest.mark.parametrize("m", range(7))
def test_different_texts_among_some_rows_equal_enumeration(m: int) -> None:
    draws = list(combinations("aaabbc", m))
    expected = sum(len(set(each)) for each in draws) / len(draws)
    assert different_in({1: 1, 2: 1, 3: 1}, m) == pytest.approx(expected)


def test_more_rows_of_the_same_few_texts_are_no_loss() -> None:
    assert different_in({71: 1}, 71) / 71 == different_in({132: 1}, 71) / 71
    with pytest.raises(ValueError, match="at most the 3 rows"):
        different_in({3: 1}, 4)
