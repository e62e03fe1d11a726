"""Pairs and verdicts: the rules of selection.pairs against a search over every pair."""

import math
import random

import pytest

from taolake.config import Select
from taolake.selection.pairs import Answer, best_pair, chance, verdicts

SPEC = Select()


def answers(*rewards: float, tokens: int = 10) -> list[Answer]:
    return [Answer(r, r > 0, tokens, f"answer {i}") for i, r in enumerate(rewards)]


def allowed(given: list[Answer], spec: Select) -> set[tuple[int, int]]:
    """Every pair the rules allow, by trying all; the loser of a small group passes the verifiers or not as asked."""
    top = max(a.reward for a in given)
    able = [
        (w, j)
        for w, a in enumerate(given)
        for j, b in enumerate(given)
        if a.reward == top
        and b.reward < top
        and (1 + top - b.reward) / 2 >= spec.min_chance
        and a.text != b.text
        and max(a.tokens, b.tokens) <= spec.max_length_ratio * max(min(a.tokens, b.tokens), 1)
    ]
    if len(given) >= 16:
        mean = sum(a.reward for a in given) / len(given)
        low = mean - 2 * math.sqrt(sum((a.reward - mean) ** 2 for a in given) / len(given))
        least = {w: min(abs(given[j].reward - low) for v, j in able if v == w) for w, _ in able}
        return {(w, j) for w, j in able if abs(given[j].reward - low) == pytest.approx(least[w])}
    found = set()
    for passed in (True, False):
        side = [(w, j) for w, j in able if given[j].passed is passed]
        least = {w: min(given[j].reward for v, j in side if v == w) for w, _ in side}
        found |= {(w, j) for w, j in side if given[j].reward == least[w]}
    return found


@pytest.mark.parametrize("n", [2, 3, 6, 15, 16, 24])
def test_a_pair_is_one_that_the_rules_allow(n: int) -> None:
    rng, told = random.Random(n), 0
    for seed in range(60):
        given = [
            Answer(
                r := rng.choice([0.0, 0.1, 0.3, 0.5, 0.8, 0.9]), r > 0, rng.choice([4, 8, 9, 20]), rng.choice("abcd")
            )
            for _ in range(n)
        ]
        pair, able = best_pair(given, SPEC, seed), allowed(given, SPEC)
        if pair is None:  # the winner drawn has no loser, though another winner may
            assert len({w for w, _ in able}) < sum(a.reward == max(b.reward for b in given) for a in given)
            continue
        told += 1
        assert (pair.chosen, pair.rejected) in able
        difference = given[pair.chosen].reward - given[pair.rejected].reward
        assert pair.chance == pytest.approx((1 + difference) / 2)
    assert told > 10


def test_with_many_answers_the_loser_is_two_deviations_down_and_not_the_accident_below() -> None:
    given = answers(0.9, *[0.5] * 14, 0.32, 0.0)
    pair = best_pair(given, SPEC, 1)
    mean = sum(a.reward for a in given) / 17
    low = mean - 2 * math.sqrt(sum((a.reward - mean) ** 2 for a in given) / 17)
    assert pair is not None and abs(0.32 - low) < abs(0.0 - low)
    assert (pair.chosen, pair.rejected) == (0, 15)


def test_with_few_answers_a_fifth_of_the_losers_fails_a_verifier() -> None:
    given = answers(0.9, 0.4, 0.2, 0.0)
    losers = [pair.rejected for seed in range(2000) if (pair := best_pair(given, SPEC, seed))]
    assert len(losers) == 2000 and set(losers) == {2, 3}
    assert losers.count(3) / 2000 == pytest.approx(0.2, abs=0.03)


def test_winners_that_tie_are_drawn_evenly() -> None:
    given = answers(1.0, 1.0, 0.2, 1.0)
    winners = [pair.chosen for seed in range(900) if (pair := best_pair(given, SPEC, seed))]
    assert [winners.count(i) / 900 for i in (0, 1, 3)] == pytest.approx([1 / 3] * 3, abs=0.06)
    assert best_pair(given, SPEC, 5) == best_pair(given, SPEC, 5)


@pytest.mark.parametrize(
    "given",
    [
        [],
        answers(1.0),
        answers(0.5, 0.5, 0.5),
        answers(0.6, 0.4),  # the order is too doubtful
        [Answer(1.0, True, 10, "same"), Answer(0.0, True, 10, "same")],
        [Answer(1.0, True, 10, "long"), Answer(0.0, True, 21, "longer")],
    ],
)
def test_no_pair_where_nothing_is_surely_worse(given: list[Answer]) -> None:
    assert best_pair(given, SPEC, 0) is None


def test_chance_and_verdicts() -> None:
    assert [chance(d) for d in (0.0, 0.5, 1.0)] == [0.5, 0.75, 1.0]
    assert verdicts([0.0, 0.4, 0.41, 0.59, 0.6, 1.0], SPEC) == [False, False, None, None, True, True]
