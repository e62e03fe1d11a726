"""k*: the peak of best-of-k against enumeration, what moves it, and what the card says of it."""

import json
import random
from itertools import combinations
from typing import Any

import jsonschema
import pytest

from taolake.report.card import SCHEMA
from taolake.report.page import render
from taolake.trust.peak import Group, of_choices, peak, report
from taolake.trust.sample import Draws, Pair
from tests.unit.test_page import card  # noqa: F401

DRAWS = Draws(300, 1)


def enumerated(group: Group, k: int) -> float:
    """Mean mark of the best-rewarded of every subset of k; no ties."""
    picks = [max(subset) for subset in combinations(zip(group.rewards, group.marks, strict=True), k)]
    return sum(mark for _, mark in picks) / len(picks)


def groups(good: float, n: int = 8, prompts: int = 80, lies: float = 0.0) -> list[Group]:
    """Answers right with a chance of a half; the reward tells with `good`, and adores a few wrong ones."""
    rng = random.Random(5)
    made = []
    for _ in range(prompts):
        marks = [float(rng.random() < 0.5) for _ in range(n)]
        rewards = [good * mark + rng.random() for mark in marks]
        for i in range(n):
            if rng.random() < lies:
                rewards[i], marks[i] = 9 + rng.random(), 0.0
        made.append(Group(rewards, marks))
    return made


def test_the_curve_is_the_enumerated_one() -> None:
    made = groups(0.4, n=6, prompts=12)
    found = peak(made, 6, DRAWS)
    assert found is not None and found.prompts == 12
    for k in range(1, 7):
        wanted = sum(enumerated(group, k) for group in made) / 12
        assert found.points[k - 1].mean == pytest.approx(wanted, abs=1e-9)
    means = [point.mean for point in found.points]
    assert found.k == means.index(max(means)) + 1
    assert found.rise.mean == pytest.approx(max(means) - means[0])


def test_a_good_reward_peaks_at_the_end_and_a_gamed_one_before() -> None:
    honest, gamed, empty = (peak(made, 8, DRAWS) for made in (groups(1.0), groups(1.0, lies=0.12), groups(-1.0)))
    assert honest is not None and honest.k == 8 and honest.rise.low > 0.2
    assert gamed is not None and 1 < gamed.k < 6 and gamed.points[-1].mean < gamed.points[gamed.k - 1].mean - 0.05
    assert empty is not None and empty.k == 1 and empty.rise.mean == 0.0
    assert "it never rises above one answer" in report(empty, "people")["says"]


def test_k_is_never_more_than_asked_nor_than_most_prompts_have() -> None:
    assert peak(groups(1.0), 3, DRAWS).k == 3  # type: ignore[union-attr]
    mixed = groups(1.0, n=4, prompts=30) + groups(1.0, n=8, prompts=10)
    found = peak(mixed, 8, DRAWS)
    assert found is not None and len(found.points) == 4 and found.prompts == 40
    assert peak([Group([0.5], [1.0])] * 9, 8, DRAWS) is None
    assert peak([], 8, DRAWS) is None


def test_a_plateau_takes_the_smallest_k() -> None:
    found = peak([Group([0.1, 0.2, 0.3, 0.4], [0.0, 1.0, 1.0, 1.0])] * 3, 4, DRAWS)
    assert found is not None and found.k == 2


def test_choices_become_marks() -> None:
    pairs = [
        Pair("p", "a", "b", "1"), Pair("p", "a", "c", "1"), Pair("p", "b", "a", "2", "other"), Pair("q", "x", "y", "3"),
    ]  # fmt: skip
    found = of_choices(pairs, {"a": 0.9, "b": 0.1, "c": None, "x": 0.5, "y": 0.0})
    assert found == [Group([0.9, 0.1], [2 / 3, 0.5]), Group([0.5, 0.0], [1.0, 0.0])]
    assert of_choices(pairs[:2], {"a": 0.9, "b": 0.1, "c": 0.2}) == [Group([0.9, 0.1, 0.2], [1.0, 0.0, 0.0])]


def test_the_card_says_it(card: dict[str, Any]) -> None:  # noqa: F811
    found = peak(groups(1.0), 8, DRAWS)
    assert found is not None
    whole = card | {"best_of": report(found, "people")}
    jsonschema.validate(whole, json.loads(SCHEMA.read_text()))
    assert "best-of-8 is trained" in render(whole) and "best-of-8 is trained" not in render(card)
