"""Adaptive N: gains against enumeration, who is asked next, and the budget, which nothing may pass."""

import math
import random
from collections.abc import Callable
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import pytest

from taolake.config import Budget
from taolake.selection import budget
from taolake.selection.budget import Prior, Seen, gain, good, prior, settled, wave

SPEC = Budget(tokens=1000, scorer="x")
EVEN = Prior(1.0, 1.0)


def seen(*values: float, cost: float = 10.0) -> Seen:
    return Seen(values, len(values), cost * len(values))


def beta_mean(a: float, b: float, function: Any, steps: int = 20_000) -> float:
    """Mean of a function of the share over its beta posterior, by the midpoint rule."""
    points = [(i + 0.5) / steps for i in range(steps)]
    weights = [p ** (a - 1) * (1 - p) ** (b - 1) for p in points]
    return math.fsum(w * function(p) for w, p in zip(weights, points, strict=True)) / math.fsum(weights)


@pytest.mark.parametrize("start", [EVEN, Prior(2.5, 1.5)])
@pytest.mark.parametrize("more", [1, 4])
def test_gain_is_the_chance_to_see_what_is_missing(start: Prior, more: int) -> None:
    hopeful, easy = seen(0, 0, 0, 0), seen(1, 1, 1)
    one = beta_mean(start.good, start.bad + 4, lambda p: 1 - (1 - p) ** more)
    assert gain(hopeful, more, start, 1.0) == pytest.approx(one, abs=1e-4)
    other = beta_mean(start.good + 3, start.bad, lambda p: 1 - p**more)
    assert gain(easy, more, start, 1.0) == pytest.approx(other, abs=1e-4)
    assert gain(easy, more, start, 0.25) == pytest.approx(other / 4, abs=1e-4)
    assert gain(seen(1, 1, 0, 0), more, start, 1.0) == 0.0  # both sides twice: nothing is missing
    second = beta_mean(start.good + 1, start.bad + 2, lambda p: 1 - (1 - p) ** more)
    assert gain(seen(1, 0, 0), more, start, 1.0) == pytest.approx(second / 2, abs=1e-4)


def test_graded_answers_gain_what_a_new_best_one_adds_times_its_chance() -> None:
    start = Prior(1.0, 1.0, (0.5, 0.1, 2.0, -0.6))
    adds = 0.5 + 0.1 * 0.5 + 2.0 * math.sqrt(0.05) - 0.6 * 0.8
    assert gain(seen(0.2, 0.4, 0.6, 0.8), 3, start, 0.25) == pytest.approx(adds * (1 / 5 + 1 / 6 + 1 / 7))
    assert 0 < gain(seen(0.9, 0.9), 4, Prior(1.0, 1.0, (0.0, 0.0, 0.0, -1.0)), 0.25) < 1e-5
    assert gain(Seen((), 4, 40.0), 1, start, 0.25) == 0.5  # answers that could not be scored tell nothing


def test_what_a_new_best_answer_adds_is_learnt_from_every_answer_left_out() -> None:
    """Against least squares over all that was left out, written down at length."""
    rng = random.Random(5)
    told = [seen(*(rng.random() for _ in range(rng.randint(1, 9)))) for _ in range(50)]
    shapes, rises = [], []
    for values in (s.values for s in told if len(s.values) > 2):
        for i, value in enumerate(values):
            others = values[:i] + values[i + 1 :]
            shapes.append([x / len(values) for x in (1.0, fmean(others), pstdev(others), max(others))])
            rises.append(max(value - max(others), 0.0))
    assert prior(told).rise == pytest.approx(np.linalg.lstsq(np.array(shapes), np.array(rises), rcond=None)[0].tolist())


def test_of_more_prompts_than_are_read_every_second_or_third_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "_MOST", 10)
    told = [seen(*(round(random.Random(f"{i} {j}").random(), 2) for j in range(4))) for i in range(30)]
    assert prior(told[:10]).rise != prior(told[:10:2]).rise, "as many as are read are read"
    assert prior(told[:20]).rise == prior(told[:20:2]).rise
    assert prior(told[:21]).rise == prior(told[:21:3]).rise


def test_the_rise_is_even_until_there_is_something_to_learn_from_and_none_of_right_and_wrong() -> None:
    assert prior([seen(0.5, 0.2, 0.4)]).rise == (1.0, 0.0, 0.0, 0.0)
    assert prior([seen(1, 0, 0)] * 50).rise == ()
    level = prior([seen(0.4, 0.4, 0.4, 0.4)] * 50)
    assert gain(seen(0.4, 0.4, 0.4), 1, level, 0.25) < 1e-5


def test_the_prior_finds_how_far_prompts_differ() -> None:
    rng = random.Random(2)

    def drawn(a: float, b: float) -> list[Seen]:
        shares = [rng.betavariate(a, b) for _ in range(3000)]
        return [seen(*(float(rng.random() < p) for _ in range(8))) for p in shares]

    for a, b in ((2.0, 4.0), (0.8, 0.4), (10.0, 10.0)):
        found = prior(drawn(a, b))
        assert found.good / (found.good + found.bad) == pytest.approx(a / (a + b), abs=0.02)
        assert found.good + found.bad == pytest.approx(max(a + b, 1.0), rel=0.2)
    assert prior([]) == prior([seen(1.0)]) == Prior(1.0, 1.0)
    assert prior([seen(1, 1), seen(1, 1)]).bad > 0  # no prompt is certain


def test_a_prompt_settles() -> None:
    assert settled(seen(*[1.0] * 8), SPEC) == "easy" and settled(seen(*[1.0] * 7), SPEC) == ""
    assert settled(seen(*[0.0] * 16), SPEC) == "hopeless" and settled(seen(*[0.0] * 15), SPEC) == ""
    assert settled(seen(*[0.0] * 15, 1.0), SPEC) == ""
    assert settled(seen(*[0.0, 1.0] * 16), SPEC) == "full"
    assert good(seen(0.5, 0.51, 1.0)) == 2


def test_who_is_asked_first() -> None:
    open_ = {"new": Seen((), 0, 0.0), "unlucky": seen(0, 0, 0, 0), "both": seen(1, 1, 0, 0), "easy": seen(*[1] * 8)}
    assert wave(open_, SPEC, 1000, 10) == {"new": 4, "unlucky": 4}
    assert wave(open_, SPEC, 60, 10) == {"new": 4, "unlucky": 2}
    assert wave(open_, SPEC, 9.9, 10) == {} == wave({}, SPEC, 1000, 10)
    cheap = {"dear": seen(0, 0, 0, 0, cost=50.0), "cheap": seen(0, 0, 0, 0, cost=5.0)}
    assert wave(cheap, SPEC, 40, 10) == {"cheap": 4}
    nearly = {"full": Seen((0.0, 0.0), 31, 100.0)}
    assert wave(nearly, SPEC, 1000, 10) == {"full": 1}


@pytest.mark.parametrize("seed", range(40))
def test_the_budget_is_never_passed(seed: int) -> None:
    """Any budget, any prompts, answers of any length up to the limit, values of any kind, errors among them."""
    rng = random.Random(seed)
    most = rng.randint(1, 60)
    spec = Budget(
        tokens=rng.randint(1, 3000), scorer="x", probe=rng.randint(1, 6), step=rng.randint(1, 6),
        n_max=rng.randint(1, 24), easy=rng.randint(1, 9), hopeless=rng.randint(1, 20),
    )  # fmt: skip
    state = {f"p{i}": Seen((), 0, 0.0) for i in range(rng.randint(1, 40))}
    skill = {name: rng.betavariate(0.6, 0.6) for name in state}
    graded, waves = rng.random() < 0.5, 0
    assert spec.tokens is not None
    while given := wave(state, spec, spec.tokens - sum(s.cost for s in state.values()), most):
        waves += 1
        for name, count in given.items():
            assert 0 < count <= spec.n_max
            for _ in range(count):
                values, asked, cost = state[name]
                told: tuple[float, ...] = ()
                if rng.random() > 0.1:
                    told = (rng.random() if graded else float(rng.random() < skill[name]),)
                state[name] = Seen(values + told, asked + 1, cost + rng.randint(0, most))
        assert sum(s.cost for s in state.values()) <= spec.tokens
        assert all(s.asked <= spec.n_max for s in state.values())
        assert waves < 2000
    assert waves > 0 or spec.tokens < most


Draw = Callable[[int], float]  # prompt -> the value of one answer to it


def spent(adaptive: bool, draw: Draw, prompts: int, total: int) -> float:
    """Mean best value when `total` answers of one token are given out, evenly or in waves."""
    spec = Budget(tokens=total, scorer="x")
    state = {str(i): Seen((), 0, 0.0) for i in range(prompts)}
    even = dict.fromkeys(state, total // prompts)
    while given := (wave(state, spec, total - sum(s.cost for s in state.values()), 1) if adaptive else even):
        for name, count in given.items():
            told = tuple(draw(int(name)) for _ in range(count))
            state[name] = Seen(state[name].values + told, state[name].asked + count, state[name].cost + count)
        even = {}
    return sum(max(s.values, default=0.0) for s in state.values()) / len(state)


def test_where_prompts_differ_waves_find_more_winners_for_the_same_money() -> None:
    rng = random.Random(11)
    skill = [rng.choice([0.95, 0.9, 0.08, 0.05]) for _ in range(1000)]

    def draw(prompt: int) -> float:
        return float(rng.random() < skill[prompt])

    assert spent(True, draw, 1000, 8000) > spent(False, draw, 1000, 8000) + 0.03


def test_where_a_few_answers_stand_out_waves_look_for_them_where_none_was_seen() -> None:
    """Most answers to a prompt are worth the same, and one in eight a quarter more: having seen it, nothing is left."""
    rng = random.Random(12)
    usual = [rng.uniform(0.3, 0.6) for _ in range(400)]

    def draw(prompt: int) -> float:
        return usual[prompt] + 0.25 * (rng.random() < 0.125)

    assert spent(True, draw, 400, 3200) > spent(False, draw, 400, 3200) + 0.03


def test_where_answers_spread_differently_waves_ask_where_they_spread_far() -> None:
    rng = random.Random(13)
    spread = [rng.choice([0.01, 0.15]) for _ in range(400)]

    def draw(prompt: int) -> float:
        return min(max(rng.gauss(0.5, spread[prompt]), 0.001), 0.999)

    assert spent(True, draw, 400, 3200) > spent(False, draw, 400, 3200) + 0.01


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({}, "needs either `tokens` or `dollars`"),
        ({"tokens": 5, "dollars": 1}, "needs either `tokens` or `dollars`"),
        ({"dollars": 1}, "limits nothing at a price of 0"),
    ],
)
def test_a_budget_has_one_limit(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Budget.model_validate({"scorer": "x", **raw})
