"""Adaptive N: gains against enumeration, who is asked next, and the budget, which nothing may pass."""

import math
import random
from collections import Counter
from itertools import islice
from typing import Any

import pytest

from taolake.config import Budget, Generate
from taolake.selection.budget import Prior, Seen, gain, good, prior, settled, wave

SPEC = Budget(tokens=1000, scorer="x")
EVEN = Prior(1.0, 1.0, 0.3)


def seen(*values: float, cost: float = 10.0) -> Seen:
    return Seen(values, len(values), cost * len(values))


def beta_mean(a: float, b: float, function: Any, steps: int = 20_000) -> float:
    """Mean of a function of the share over its beta posterior, by the midpoint rule."""
    points = [(i + 0.5) / steps for i in range(steps)]
    weights = [p ** (a - 1) * (1 - p) ** (b - 1) for p in points]
    return math.fsum(w * function(p) for w, p in zip(weights, points, strict=True)) / math.fsum(weights)


@pytest.mark.parametrize("start", [EVEN, Prior(2.5, 1.5, 0.3)])
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


def test_graded_answers_gain_what_the_best_is_expected_to_rise() -> None:
    """Blom's values for 4, 8, 16 answers; the spread is the prompt's own, drawn towards the common one."""
    values = (0.2, 0.4, 0.6, 0.8)
    spread = math.sqrt((4 * 0.05 + 2 * 0.3**2) / 6)
    assert gain(Seen(values, 4, 1.0), 4, EVEN, 0.25) == pytest.approx(spread * (1.4342 - 1.0491), abs=2e-3)
    wide, narrow = (gain(seen(*v), 4, EVEN, 0.25) for v in ((0.1, 0.9, 0.5), (0.49, 0.51, 0.5)))
    assert wide > 1.5 * narrow > 0


def test_the_prior_finds_how_far_prompts_differ() -> None:
    rng = random.Random(2)

    def drawn(a: float, b: float) -> list[Seen]:
        shares = [rng.betavariate(a, b) for _ in range(3000)]
        return [seen(*(float(rng.random() < p) for _ in range(8))) for p in shares]

    for a, b in ((2.0, 4.0), (0.8, 0.4), (10.0, 10.0)):
        found = prior(drawn(a, b))
        assert found.good / (found.good + found.bad) == pytest.approx(a / (a + b), abs=0.02)
        assert found.good + found.bad == pytest.approx(max(a + b, 1.0), rel=0.2)
    assert prior([]) == prior([seen(1.0)])._replace(spread=0.5) == Prior(1.0, 1.0, 0.5)
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


def spent(adaptive: bool, rng: random.Random, skill: list[float], total: int) -> float:
    """Mean best value when `total` answers of one token are given out, evenly or in waves."""
    spec = Budget(tokens=total, scorer="x")
    state = {str(i): Seen((), 0, 0.0) for i in range(len(skill))}
    even = dict.fromkeys(state, total // len(skill))
    while given := (wave(state, spec, total - sum(s.cost for s in state.values()), 1) if adaptive else even):
        for name, count in given.items():
            told = tuple(float(rng.random() < skill[int(name)]) for _ in range(count))
            state[name] = Seen(state[name].values + told, state[name].asked + count, state[name].cost + count)
        even = {}
    return sum(max(s.values, default=0.0) for s in state.values()) / len(state)


def test_where_prompts_differ_waves_find_more_winners_for_the_same_money() -> None:
    rng = random.Random(11)
    skill = [rng.choice([0.95, 0.9, 0.08, 0.05]) for _ in range(1000)]
    assert spent(True, rng, skill, 8000) > spent(False, rng, skill, 8000) + 0.03


def test_whose_turn_it_is_takes_nothing_back() -> None:
    shares = [{"name": "b", "share": 0.25, "temperature": 0.5}, {"name": "plain", "share": 0.75}]
    spec = Generate.model_validate({"strategies": shares, "budget": {"tokens": 9, "scorer": "x", "probe": 4}})
    turns = list(islice(spec.order(), 64))
    assert turns[:4] == ["plain"] * 4
    assert Counter(turns) == {"plain": 48, "b": 16}
    assert list(islice(spec.order(), 40)) == turns[:40]


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
