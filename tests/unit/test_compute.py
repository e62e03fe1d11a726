"""Quality against tuning compute over several rounds: which tokens are counted, and once."""

from typing import Any

import pytest

from taolake.report.compute import search, section
from taolake.report.measures import Draws

DRAWS = Draws(200, 1)
GREEDY = {"base": 0.25, "one": 0.5, "two": 0.75, "three": 1.0}


def measured(evaluation: str, policy: str) -> dict[str, dict[str, float]]:
    prompts = [f"{evaluation}{i}" for i in range(4)]
    right = {p: float(i < 4 * GREEDY[policy]) for i, p in enumerate(prompts)}
    flat = {"greedy": 0.0, "samples": 4.0, "correct": 2.0, "tokens": 5.0, "gate_at_1": 0.5, "gate_at_2": 0.75}
    return {name: dict.fromkeys(prompts, value) for name, value in flat.items()} | {"greedy": right}


def a_round(base: str, tuned: str, wrote: int, trained: int) -> dict[str, dict[str, Any]]:
    return {
        "select": {"answer_tokens": wrote, "prompts": 10},
        "train": {"metrics": {"tokens": trained}},
        "evaluate": {"evaluation": "e", "base": base, "tuned": tuned},
    }


def spent(done: dict[int, dict[str, dict[str, Any]]], number: int) -> list[tuple[int, int]]:
    found = section(done, number, measured, DRAWS)
    return [(each["round"], each["tokens"]) for each in found["tuned"]] if found else []


def test_answers_of_the_same_base_are_paid_once() -> None:
    """Round 2 learns from round 1's answers and 400 tokens of new ones, and trains from the base again."""
    done = {1: a_round("base", "one", 1000, 100), 2: a_round("base", "two", 1400, 150)}
    assert spent(done, 2) == [(1, 1100), (2, 1400 + 250)]
    found = section(done, 2, measured, DRAWS)
    assert found is not None
    assert [p["tokens"] for p in found["search"]] == [100 + 50, 100 + 100], "after the training of round 1"


def test_answers_that_were_forgotten_were_paid_for() -> None:
    done = {1: a_round("base", "one", 1000, 100), 2: a_round("base", "two", 400, 150)}
    assert spent(done, 2) == [(1, 1100), (2, 1250)]


def test_a_new_base_answers_anew() -> None:
    done = {1: a_round("base", "one", 1000, 100), 2: a_round("one", "two", 600, 50)}
    found = section(done, 2, measured, DRAWS)
    assert found is not None and spent(done, 2) == [(1, 1100), (2, 1750)]
    assert [p["tokens"] for p in found["search"]] == [1150, 1200], "after all that round 1 cost"
    assert found["base"]["right"]["mean"] == 0.25, "what the first round began with"
    assert [each["right"]["mean"] for each in found["tuned"]] == [0.5, 0.75]


def test_only_rounds_up_to_this_one_that_trained() -> None:
    done = {1: a_round("base", "one", 1000, 100), 2: {"select": {"answer_tokens": 5}}, 3: a_round("one", "three", 9, 1)}
    assert spent(done, 1) == [(1, 1100)]
    assert spent(done, 3) == [(1, 1100), (3, 1110)]
    assert section(done, 2, measured, DRAWS) is None
    del done[1]["select"]["answer_tokens"]  # made before selections counted tokens
    assert section(done, 1, measured, DRAWS) is None and spent(done, 3) == [(3, 10)]


def test_search_keeps_what_a_prompt_has() -> None:
    """One prompt has no second answer, one the reward has no word on; k = 4 is reached by too few."""
    prompts = ["a", "b", "c", "d"]
    base = {
        "correct": dict.fromkeys(prompts, 1.0),
        "samples": dict.fromkeys(prompts, 4.0),
        "tokens": {"a": 4.0, "b": 4.0, "c": 4.0, "d": 8.0},
        "gate_at_1": {"a": 0.0, "b": 0.5, "c": 1.0},
        "gate_at_2": {"a": 1.0, "b": 1.0},
        "gate_at_4": {"a": 0.0},
    }
    points = search(base, 7, 3, DRAWS)
    assert [(p["k"], p["tokens"]) for p in points] == [(1, 7 + 15), (2, 7 + 30)]
    assert [p["right"]["mean"] for p in points] == [pytest.approx(1.75 / 4), pytest.approx(3.25 / 4)]
    assert search({name: base[name] for name in ("correct", "samples", "tokens")}, 0, 3, DRAWS) == []
