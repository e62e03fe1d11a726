"""The sequential test: what is paired with what, and by simulation how often it is wrong and how soon it is right."""

import math

import numpy as np
import pytest

from taolake.watch.sequential import (
    Capital,
    Pair,
    Word,
    against_equal,
    against_margin,
    crossed,
    first_of_each,
    pairs,
    reading,
    together,
)

ALPHA = 0.05
RUNS = 200


def traffic(live: float, canary: float, share: float, requests: int, seed: int) -> list[Word]:
    """Requests answered rightly with a chance that depends on the version."""
    rng = np.random.default_rng(seed)
    new = rng.random(requests) < share
    right = rng.random(requests) < np.where(new, canary, live)
    return [Word(float(i), bool(new[i]), float(right[i])) for i in range(requests)]


def test_a_pair_is_what_came_since_the_last_one() -> None:
    said = [(0, False, 1.0), (1, False, 0.0), (2, True, 1.0), (3, True, 0.0), (4, True, 1.0), (5, False, 1.0)]
    words = [Word(float(at), canary, value) for at, canary, value in said]
    assert pairs(words) == [Pair(2.0, 0.5), Pair(5.0, -0.5)]
    assert pairs(reversed(words)) == pairs(words)
    assert pairs([word for word in words if word.canary]) == []


def test_a_signal_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got a signal of -1\.0, wanted 0 to 1"):
        pairs([Word(0.0, True, -1.0)])


def test_capital_is_the_mean_over_the_stakes() -> None:
    from taolake.watch.sequential import _STAKES

    grown = against_equal([Pair(1.0, -1.0), Pair(2.0, 0.5)])
    assert grown.value[0] == pytest.approx(np.mean(1 + _STAKES))
    assert grown.value[1] == pytest.approx(np.mean((1 + _STAKES) * (1 - 0.5 * _STAKES)))
    assert grown.most == grown.value[0]
    assert against_equal([]).most == 1.0


def test_bets_on_several_signals_are_averaged_as_time_goes_by() -> None:
    both = together([Capital(np.array([1.0, 3.0]), np.array([4.0, 8.0])), Capital(np.array([2.0]), np.array([0.5]))])
    assert both.at.tolist() == [1.0, 2.0, 3.0]
    assert both.value.tolist() == [2.5, 2.25, 4.25]
    assert (crossed(both, 0.4), crossed(both, 0.25), crossed(both, 0.1)) == (1.0, 3.0, None)
    assert crossed(together([]), 0.5) is None


@pytest.mark.parametrize(("chance", "share"), [(0.5, 0.5), (0.9, 0.1)])
def test_equal_versions_are_rolled_back_at_most_as_often_as_promised(chance: float, share: float) -> None:
    """Looked at after every request; 200 runs may be wrong 10 times at alpha 0.05."""
    ends = [crossed(against_equal(pairs(traffic(chance, chance, share, 1000, run))), ALPHA) for run in range(RUNS)]
    assert sum(end is not None for end in ends) <= ALPHA * RUNS


def test_a_version_at_the_margin_is_promoted_at_most_as_often_as_promised() -> None:
    ends = [crossed(against_margin(pairs(traffic(0.8, 0.7, 0.5, 1000, run)), 0.1), ALPHA) for run in range(RUNS)]
    assert sum(end is not None for end in ends) <= ALPHA * RUNS


@pytest.mark.parametrize(("canary", "share", "within"), [(0.3, 0.5, 90), (0.3, 0.1, 350), (0.5, 0.5, 300)])
def test_a_bad_version_is_found_within_so_many_requests(canary: float, share: float, within: int) -> None:
    """Live is right 9 times in 10."""
    ends = [crossed(against_equal(pairs(traffic(0.9, canary, share, 1000, run))), ALPHA) for run in range(50)]
    assert sum(end is not None and end < within for end in ends) >= 48
    assert np.median([1e9 if end is None else end for end in ends]) > 10, "it bets, it does not guess"


def test_an_equal_version_is_promoted_in_the_end() -> None:
    ends = [crossed(against_margin(pairs(traffic(0.9, 0.9, 0.5, 2000, run)), 0.1), ALPHA) for run in range(20)]
    assert sum(end is not None for end in ends) >= 19


def test_a_trend_that_both_see_is_no_difference() -> None:
    """Quality falls from 0.9 to 0.3 over the day; the canary comes in late, and is as good as the live one then."""
    wrong = 0
    for run in range(100):
        rng = np.random.default_rng(run)
        level = np.linspace(0.9, 0.3, 1000)
        new = rng.random(1000) < np.linspace(0.0, 0.5, 1000)
        words = [Word(float(i), bool(new[i]), float(rng.random() < level[i])) for i in range(1000)]
        wrong += crossed(against_equal(pairs(words)), ALPHA) is not None
    assert wrong <= 10


def test_the_interval_holds_the_truth_and_narrows() -> None:
    found = [reading(pairs(traffic(0.8, 0.5, 0.5, 600, run)), ALPHA) for run in range(20)]
    assert sum(r.low <= -0.3 <= r.high for r in found) >= 19
    short = reading(pairs(traffic(0.8, 0.5, 0.5, 60, 0)), ALPHA)
    assert short.high - short.low > found[0].high - found[0].low > 0.1
    assert reading([], ALPHA) == (0, 0.0, -1.0, 1.0)


def test_extreme_evidence_stays_finite() -> None:
    grown = against_equal([Pair(float(i), -1.0) for i in range(5000)])
    assert math.isfinite(grown.most) and grown.most > 1e11
    told = reading([Pair(float(i), -1.0) for i in range(5000)], ALPHA)
    assert told.low == -1.0 and told.high < -0.9


def test_one_person_has_one_word() -> None:
    words = [("a", Word(3.0, True, 0.0)), ("b", Word(2.0, False, 1.0)), ("a", Word(1.0, True, 1.0))]
    assert first_of_each(words) == [Word(1.0, True, 1.0), Word(2.0, False, 1.0)]


def test_users_who_ask_often_do_not_fool_it() -> None:
    """Each user is right always or never, whatever the version: 20 answers of one are one word."""
    wrong, naive = 0, 0
    for run in range(100):
        rng = np.random.default_rng(run)
        users = [(str(u), bool(rng.random() < 0.5), float(rng.random() < 0.5)) for u in range(60)]
        order = rng.permutation(np.repeat(np.arange(60), 20))
        words = [(users[u][0], Word(float(i), users[u][1], users[u][2])) for i, u in enumerate(order)]
        wrong += crossed(against_equal(pairs(first_of_each(words))), ALPHA) is not None
        naive += crossed(against_equal(pairs(word for _, word in words)), ALPHA) is not None
    assert wrong <= 10 < naive, "taking each answer for itself would have been wrong more often than promised"
