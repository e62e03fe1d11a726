"""How a reward model's order is measured, and how the pull of length is found."""

import math
import random

import pytest

from taolake.training import reward_metrics


@pytest.mark.parametrize(
    ("choices", "accuracy", "pairs", "top1", "lists"),
    [
        ([], None, 0, None, 0),
        ([[2.0, 1.0]], 1.0, 1, None, 0),
        ([[1.0, 2.0], [1.0, 1.0]], 0.25, 2, None, 0),
        ([[2.0, 1.0, 3.0], [5.0, 1.0, 2.0, 3.0]], 0.8, 5, 0.5, 2),
        ([[1.0, 1.0, 1.0, 0.0]], 2 / 3, 3, 1 / 3, 1),
    ],
)
def test_held_out(
    choices: list[list[float]], accuracy: float | None, pairs: int, top1: float | None, lists: int
) -> None:
    found = reward_metrics.held_out([f"p{i}" for i in range(len(choices))], choices, 0)
    assert (found["pairs"], found["lists"]) == (pairs, lists)
    assert found["accuracy"] == (None if accuracy is None else pytest.approx(accuracy))
    assert found["top1"] == (None if top1 is None else pytest.approx(top1))


def test_the_interval_resamples_prompts_and_is_wider_for_fewer() -> None:
    """A hundred pairs of two prompts say as little as two."""
    choices = [[1.0, 0.0]] * 50 + [[0.0, 1.0]] * 50
    few = reward_metrics.held_out(["a"] * 50 + ["b"] * 50, choices, 1)
    many = reward_metrics.held_out([f"p{i}" for i in range(100)], choices, 1)
    assert (few["accuracy_low"], few["accuracy_high"]) == (0.0, 1.0)
    assert 0.38 < many["accuracy_low"] < 0.42 and 0.58 < many["accuracy_high"] < 0.62
    assert many == reward_metrics.held_out([f"p{i}" for i in range(100)], choices, 1)


def test_lengths_are_standardised_on_their_log() -> None:
    scale = reward_metrics.length_scale([[1, 10], [100]])
    assert scale == (pytest.approx(math.log(10)), pytest.approx(math.log(10) * math.sqrt(2 / 3)))
    assert reward_metrics.standardised([10, 0], scale) == pytest.approx([0.0, -math.sqrt(1.5)])
    assert reward_metrics.length_scale([[5, 5]]) == (pytest.approx(math.log(5)), 1.0)


@pytest.mark.parametrize("slope", [-1.0, 0.0, 2.0])
@pytest.mark.parametrize("size", [2, 5])
def test_the_pull_of_length_is_found(slope: float, size: int) -> None:
    """Choices drawn with a known slope give it back."""
    rng = random.Random(3)
    choices = []
    for _ in range(3000):
        z = [rng.gauss(0, 1) for _ in range(size)]
        (best,) = rng.choices(range(size), [math.exp(slope * x) for x in z])
        choices.append([z[best], *z[:best], *z[best + 1 :]])
    assert reward_metrics.length_pull(choices) == pytest.approx(slope, abs=0.12)


def test_the_pull_stays_finite_where_the_longest_always_wins() -> None:
    assert 1 < reward_metrics.length_pull([[1.0, -1.0]] * 40) < 10
