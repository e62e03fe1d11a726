"""Rewards of one prompt's candidates: gates, weighted means, pooling, abstention."""

import math
from typing import Any

import pytest

from taolake.config import Reward
from taolake.selection.calibrate import Calibration
from taolake.selection.combine import Combined, combine, squash
from taolake.types import Score

NAN = math.nan


def reward(**options: object) -> Reward:
    return Reward.model_validate({"weights": {"q": 1.0}, "min_scored": 2, "min_spread": 0.0, **options})


def group(**columns: list[float | None]) -> list[dict[str, Score | None]]:
    """One candidate per position; None stands for a scorer that could not tell."""
    names = list(columns)
    return [
        {name: Score(value) for name, value in zip(names, row, strict=True)}
        for row in zip(*columns.values(), strict=True)
    ]


def rewards(found: list[Combined]) -> list[float | None]:
    return [c.reward for c in found]


@pytest.mark.parametrize(
    ("columns", "options", "expected"),
    [
        ({"q": [0.2, 0.8]}, {}, [(0.2, ""), (0.8, "")]),
        ({"q": [0.2, None, 0.8]}, {}, [(0.2, ""), (None, "unscored"), (0.8, "")]),
        ({"q": [0.2, NAN, 0.8]}, {}, [(0.2, ""), (None, "unscored"), (0.8, "")]),
        ({"q": [0.2, 0.8], "p": [1.0, 0.0]}, {"weights": {"q": 3, "p": 1}}, [(0.4, ""), (0.6, "")]),
        ({"q": [0.2, 0.8], "p": [1.0, None]}, {"weights": {"q": 3, "p": 1}}, [(None, "too_few")] * 2),
        ({"q": [0.9, 0.5, 0.4], "v": [0, 1, 1]}, {"require": ["v"]}, [(0.0, "gate"), (0.5, ""), (0.4, "")]),
        ({"q": [0.9, 0.5, 0.4], "v": [None, 1, 1]}, {"require": ["v"]}, [(None, "unscored"), (0.5, ""), (0.4, "")]),
        ({"q": [0.9, 0.5, 0.4], "v": [NAN, 1, 1]}, {"require": ["v"]}, [(None, "unscored"), (0.5, ""), (0.4, "")]),
        ({"q": [None, 0.5, 0.4], "v": [0, 1, 1]}, {"require": ["v"]}, [(0.0, "gate"), (0.5, ""), (0.4, "")]),
        ({"q": [0.9, 0.5], "v": [0, 1], "w": [None, 1]}, {"require": ["w", "v"]}, [(0.0, "gate"), (0.5, "")]),
        ({"q": [0.9, 0.5], "v": [0.5, 1]}, {"require": ["v"]}, [(0.9, ""), (0.5, "")]),
        ({"q": [0.9, 0.5]}, {"require": ["absent"]}, [(None, "too_few")] * 2),
        # gate failures count as scored, and their zeros as spread
        ({"q": [0.9, 0.5], "v": [0, 1]}, {"require": ["v"], "min_spread": 0.5}, [(0.0, "gate"), (0.5, "")]),
        ({"q": [0.9, 0.9], "v": [0, 0]}, {"require": ["v"], "min_spread": 0.05}, [(None, "no_spread")] * 2),
        ({"q": [0.5]}, {}, [(None, "too_few")]),
        ({"q": [0.5] * 3}, {"min_spread": 0.05}, [(None, "no_spread")] * 3),
        ({"q": [0.5] * 3}, {}, [(0.5, "")] * 3),
        ({"q": [0.25, 0.3]}, {"min_spread": 0.05}, [(0.25, ""), (0.3, "")]),
        ({"q": [0.25, 0.2999]}, {"min_spread": 0.05}, [(None, "no_spread")] * 2),
        ({"q": [0.1, 0.9, None]}, {"min_scored": 3}, [(None, "too_few")] * 3),
    ],
)
def test_combine(columns: dict[str, list[float | None]], options: dict[str, object], expected: list[tuple]) -> None:
    assert combine(group(**columns), reward(**options)) == [Combined(*pair) for pair in expected]


def test_empty_group_stays_empty() -> None:
    assert combine([], reward()) == []


def pooled(qs: list[float | None], keys: list[str | None], prior: float, **options: object) -> list[float | None]:
    rows: list[dict[str, Score | None]] = [
        {"q": Score(q), "runs": Score(1.0, answer_key=key)} for q, key in zip(qs, keys, strict=True)
    ]
    return rewards(combine(rows, reward(pool_over="runs", pool_prior=prior, **options)))


@pytest.mark.parametrize(
    ("qs", "keys", "prior", "expected"),
    [
        # mean 0.5; a: (0.2+0.6+0.5)/3, b: (0.7+0.5)/2
        ([0.2, 0.6, 0.7], ["a", "a", "b"], 1.0, [1.3 / 3, 1.3 / 3, 0.6]),
        ([0.2, 0.6, 0.7], ["a", "a", "b"], 0.0, [0.4, 0.4, 0.7]),
        # no key: an answer of its own, never one shared "no key" answer
        ([0.2, 0.6, 0.7], [None, None, "b"], 1.0, [0.35, 0.55, 0.6]),
        # an unscored twin neither counts nor gains a score
        ([0.2, None, 0.8], ["a", "a", "b"], 1.0, [0.35, None, 0.65]),
    ],
)
def test_pooling_shrinks_to_the_prompt_mean(
    qs: list[float | None], keys: list[str | None], prior: float, expected: list[float | None]
) -> None:
    found = pooled(qs, keys, prior)
    assert [e if e is None else pytest.approx(e, abs=1e-11) for e in expected] == found


def test_pooling_does_not_elect_the_majority() -> None:
    found = pooled([0.3, 0.3, 0.3, 0.9, 0.9], ["many", "many", "many", "few", "few"], 1.0)
    assert found[3] == found[4] and found[3] > found[0]


def test_pooling_leaves_gate_failures_out() -> None:
    rows: list[dict[str, Score | None]] = [
        {"q": Score(0.9), "runs": Score(0.0, answer_key="a")},
        {"q": Score(0.2), "runs": Score(1.0, answer_key="a")},
        {"q": Score(0.6), "runs": Score(1.0, answer_key="b")},
    ]
    found = combine(rows, reward(require=["runs"], pool_over="runs"))
    assert found == [Combined(0.0, "gate"), Combined(0.3, ""), Combined(0.5, "")]


def test_equal_values_are_exact_ties_whatever_the_order_of_the_sum() -> None:
    found = pooled([0.1, 0.2, 0.3, 0.3, 0.2, 0.1], ["a", "a", "a", "b", "b", "b"], 0.0)
    assert len(set(found)) == 1


@pytest.mark.parametrize("value", [-0.1, 1.1, math.inf])
def test_value_outside_the_unit_interval_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="squash"):
        combine(group(q=[value, 0.5]), reward())


@pytest.mark.parametrize("weights", [{"q": 0.0}, {"q": 2.0, "p": -1.0}])
def test_weights_that_cannot_average_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        combine(group(q=[0.1, 0.5], p=[0.1, 0.5]), reward(weights=weights))


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([], []),
        ([None, NAN], [None, None]),
        ([3.0], [0.5]),
        ([7.0, 7.0], [0.5, 0.5]),
        ([1.0, 3.0], [1 / (1 + math.e), math.e / (1 + math.e)]),
        ([1.0, None, 3.0, NAN], [1 / (1 + math.e), None, math.e / (1 + math.e), None]),
        ([-1000.0, 1000.0], [0.0, 1.0]),
    ],
)
def test_squash(logits: list[float | None], expected: list[float | None]) -> None:
    assert squash(logits) == [None if e is None else pytest.approx(e, abs=1e-12) for e in expected]


def test_squash_forgets_the_prompts_offset() -> None:
    assert squash([1.0, 2.0, 4.0]) == pytest.approx(squash([101.0, 102.0, 104.0]), abs=1e-12)


EVEN = Calibration("platt", 60, (math.log(3),))  # a difference of 1 is three to one


def test_a_calibrated_reward_is_the_chance_to_be_preferred() -> None:
    found = combine(group(q=[1.0, 0.0, None, 1.0]), reward(), EVEN)
    assert rewards(found) == pytest.approx([0.625, 0.25, None, 0.625])
    assert [c.reason for c in found] == ["", "", "unscored", ""]


def test_a_failed_verifier_stays_worth_nothing_and_is_beaten() -> None:
    found = combine(group(q=[1.0, 1.0, 0.9], v=[1, 1, 0]), reward(require=["v"]), EVEN)
    assert rewards(found) == pytest.approx([0.625, 0.625, 0.0]) and found[2].reason == "gate"


def test_a_map_that_tells_nothing_apart_makes_the_prompt_abstain() -> None:
    flat = Calibration("platt", 60, (0.0,))
    assert {c.reason for c in combine(group(q=[0.1, 0.9]), reward(min_spread=0.05), flat)} == {"no_spread"}


@pytest.mark.parametrize(
    ("qs", "reason"),
    [
        ([0.0, 0.3], "doubt"),  # 3 ** 0.3 is 1.39: 0.58
        ([0.0, 0.6], ""),  # 3 ** 0.6 is 1.93: 0.66
        ([0.0, 0.3, 0.6], ""),
    ],
)
def test_a_best_that_is_hardly_likelier_to_be_preferred_is_in_doubt(qs: list[float | None], reason: str) -> None:
    assert {c.reason for c in combine(group(q=qs), reward(), EVEN)} == {reason}
    assert {c.reason for c in combine(group(q=qs), reward(min_chance=0.5), EVEN)} == {""}
    assert {c.reason for c in combine(group(q=qs), reward())} == {""}, "without a calibration there is no chance"


def test_that_one_failed_a_verifier_is_beyond_doubt() -> None:
    found = combine(group(q=[0.5, 0.6, 0.9], v=[1, 1, 0]), reward(require=["v"]), EVEN)
    assert [c.reason for c in found] == ["", "", "gate"]


@pytest.mark.parametrize(
    ("qs", "outside", "reason"),
    [
        ([0.1, 0.5, 0.9], [1, 2, 3], ""),
        ([0.1, 0.5, 0.9], [3, 5, 1], "conflict"),  # the worst before the best
        ([0.1, 0.2, 0.3, 0.4, 0.9], [1, 9, 8, 7, 1], "conflict"),  # the ends level, the rest the other way round
        ([0.1, 0.2, 0.3, 0.9], [4, 4, 4, 4], ""),
        ([0.1, 0.1, 0.9, 0.9], [5, 0, 3, 2], ""),  # ties speak by their mean: 2.5 and 2.5
        ([0.1, 0.1, 0.9, 0.9], [6, 0, 3, 2], "conflict"),
        ([0.1, 0.5, 0.9], [None, NAN, 1], ""),  # it could not tell
        ([0.1, 0.5, 0.9], [9, None, 1], "conflict"),
        ([0.5, 0.5], [1, 2], ""),
    ],
)
def test_a_scorer_from_outside_may_contradict(qs: list[float | None], outside: list[Any], reason: str) -> None:
    rows = group(q=qs, held=outside)
    found = combine(rows, reward(conflict_with="held"))
    assert {c.reason for c in found} == {reason}
    assert rewards(found) == ([None] * len(qs) if reason else qs), "it changes no reward"
    assert {c.reason for c in combine(rows, reward())} == {""}


def test_who_fails_a_verifier_is_the_worst_to_a_scorer_from_outside_too() -> None:
    rows = group(q=[0.9, 0.8, 0.7], v=[0, 1, 1], held=[1.0, 0.0, 0.0])
    assert {c.reason for c in combine(rows, reward(require=["v"], conflict_with="held"))} == {"conflict"}


def test_the_identity_leaves_the_weighted_mean() -> None:
    scores = group(q=[0.2, 0.8, 0.5])
    assert combine(scores, reward(), Calibration()) == combine(scores, reward())


def test_calibration_keeps_the_order() -> None:
    values: list[float | None] = [0.9, 0.1, 0.5, 0.45, 0.7, 0.1]
    made = rewards(combine(group(q=values), reward(), EVEN))
    assert sorted(range(6), key=lambda i: made[i] or 0) == sorted(range(6), key=lambda i: values[i] or 0)
    assert made[1] == made[5]
