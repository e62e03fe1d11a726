"""Shares of several tasks: exact counts, what weight and temperature do, and draws that leave no prompt out."""

from collections import Counter

import pytest

from taolake.selection.mix import draw, quotas


@pytest.mark.parametrize(
    ("weights", "temperature", "wanted"),
    [
        ({}, 1.0, {"a": 90, "b": 10}),
        ({}, 0.0, {"a": 50, "b": 50}),
        ({}, 0.5, {"a": 75, "b": 25}),
        ({"b": 9.0}, 1.0, {"a": 50, "b": 50}),
        ({"a": 2.0, "b": 1.0}, 0.0, {"a": 67, "b": 33}),
    ],
)
def test_shares(weights: dict[str, float], temperature: float, wanted: dict[str, int]) -> None:
    assert quotas({"a": 90, "b": 10}, weights, temperature) == wanted


def test_shares_add_up_and_do_not_depend_on_the_order() -> None:
    counts = {"x": 7, "y": 11, "z": 13}
    for t in (0.0, 0.3, 1.0):
        found = quotas(counts, {"y": 1.7}, t)
        assert sum(found.values()) == 31
        assert found == quotas(dict(reversed(counts.items())), {"y": 1.7}, t)


def test_a_task_without_prompts_is_refused() -> None:
    with pytest.raises(ValueError, match="task 'b' has no prompts"):
        quotas({"a": 3, "b": 0}, {}, 1.0)


def test_draws_repeat_all_before_any_once_more() -> None:
    names = ["d", "a", "c", "b"]
    found = Counter(draw(names, 10, 3))
    assert sum(found.values()) == 10 and set(found.values()) == {2, 3}
    assert draw(names, 10, 3) == draw(sorted(names), 10, 3)
    assert len(set(draw(names, 3, 1))) == 3 and draw(names, 4, 1) == sorted(names)
    assert len({tuple(draw(names, 2, seed)) for seed in range(30)}) > 3
