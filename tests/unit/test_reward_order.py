"""Reward scoring: the order candidates are asked in, and the window over a pooling engine (a fake one here)."""

import itertools
import random
import sys
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from taolake.engines.vllm import RewardModel
from taolake.stages import reward_model
from taolake.stages.fanout import Row
from taolake.stages.reward_model import questions
from taolake.types import Score


def row(prompt: str, name: str, text: str | None, status: str = "ok") -> Row:
    return {"prompt_id": prompt, "candidate_id": name, "text": text, "status": status, "messages": prompt}


def asked(rows: list[Row]) -> list[list[str]]:
    return [[r["candidate_id"] for r in same] for same in questions(iter(rows))]


def test_prompts_with_long_answers_come_first_and_equal_answers_are_one_question() -> None:
    rows = [
        row("p", "p0", "ab"), row("p", "p1", "abc"), row("p", "p2", "ab"), row("p", "p3", None, "error"),
        row("q", "q0", "a"), row("q", "q1", "abcdef"),
        row("r", "r0", None), row("r", "r1", None, "timeout"), row("r", "r2", ""),
    ]  # fmt: skip
    assert asked(rows) == [["q1"], ["q0"], ["p1"], ["p0", "p2"], ["p3"], ["r0", "r1"], ["r2"]]


def test_an_answer_that_failed_is_no_answer_even_with_text() -> None:
    assert asked([row("p", "a", "x"), row("p", "b", "x", "timeout")]) == [["a"], ["b"]]


def test_equal_answers_to_two_prompts_are_two_questions() -> None:
    assert asked([row("p", "a", "x"), row("q", "b", "x")]) == [["a"], ["b"]]


def test_prompts_stay_whole_over_the_border_of_a_lot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows a prompt, lots of four: a prompt cut in two would ask its equal answers twice."""
    monkeypatch.setattr(reward_model, "_BUFFER_ROWS", 4)
    rows = [row(str(p), f"{p}{i}", "same") for p in range(7) for i in range(3)]
    found = asked(rows)
    assert sorted(map(len, found)) == [3] * 7
    assert all(len({name[0] for name in same}) == 1 for same in found)


def test_a_long_partition_is_read_as_it_is_needed() -> None:
    read = 0

    def rows() -> Any:
        nonlocal read
        for i in itertools.count():
            read += 1
            yield row(str(i), str(i), "x")

    first = next(questions(rows()))
    assert len(first) == 1
    assert read <= reward_model._BUFFER_ROWS + 1


# ---- the window


class FakePooling:
    """Takes one to three requests a step, the oldest first; a request's value is the sum of its ids."""

    def __init__(self) -> None:
        self.held: list[tuple[str, list[int]]] = []
        self.seen: list[int] = []
        self.submitted: Counter[str] = Counter()
        self._rng = random.Random(3)

    def add_request(self, key: str, prompt: dict[str, list[int]], params: Any) -> None:
        if not prompt["prompt_token_ids"]:
            raise ValueError("the prompt is empty")
        self.submitted[key] += 1
        self.held.append((key, prompt["prompt_token_ids"]))

    def step(self) -> list[Any]:
        assert self.held, "a step with nothing in flight never ends on a real engine"
        self.seen.append(len(self.held))
        done, self.held = self.held[: (n := self._rng.randint(1, 3))], self.held[n:]
        return [
            SimpleNamespace(
                request_id=key,
                finished=True,
                prompt_token_ids=ids,
                num_cached_tokens=len(ids) - 1,
                outputs=SimpleNamespace(data=[float("nan") if 13 in ids else float(sum(ids))]),
            )
            for key, ids in done
        ]

    def abort_request(self, keys: list[str]) -> None:
        self.held = [h for h in self.held if h[0] not in keys]


@pytest.fixture
def pooling(monkeypatch: pytest.MonkeyPatch) -> tuple[RewardModel, FakePooling]:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(PoolingParams=dict))
    engine = FakePooling()
    model = RewardModel.__new__(RewardModel)
    model.__dict__.update(_llm=SimpleNamespace(llm_engine=engine), _width=10)
    return model, engine


def test_one_window_over_all_lots(pooling: tuple[RewardModel, FakePooling], monkeypatch: pytest.MonkeyPatch) -> None:
    model, engine = pooling
    monkeypatch.setattr(reward_model, "_BUFFER_ROWS", 16)
    rows = [row(f"{p:02}", f"{p:02}.{i}", "x" * (p % 5 + i)) for p in range(40) for i in range(4)]
    inputs = ((same[0]["candidate_id"], [len(same[0]["text"]), 1]) for same in questions(iter(rows)))
    found = dict(model.score(inputs))
    assert found.keys() == {r["candidate_id"] for r in rows}
    assert all(found[r["candidate_id"]].value == len(r["text"]) + 1 for r in rows)
    assert set(engine.submitted.values()) == {1}
    full = engine.seen[: -len(engine.seen) // 10]
    assert min(full) >= 10 - 3, "the window drained before the end"
    assert max(engine.seen) == 10


def test_what_cannot_be_scored_is_a_row_and_harms_no_other(pooling: tuple[RewardModel, FakePooling]) -> None:
    model, _ = pooling
    long = Score(None, "abstain", detail={"error": "too long"})
    inputs: list[tuple[str, list[int] | Score]] = [
        ("a", [1, 2]),
        ("long", long),
        ("empty", []),
        ("nan", [13]),
        ("b", [4]),
    ]
    found = dict(model.score(inputs))
    assert found == {
        "a": Score(3.0, detail={"tokens": 2, "cached_tokens": 1}),
        "long": long,
        "empty": Score(None, "error", detail={"error": "the prompt is empty"}),
        "nan": Score(None, "error", detail={"error": "the model gave nan", "tokens": 1}),
        "b": Score(4.0, detail={"tokens": 1, "cached_tokens": 0}),
    }


@pytest.mark.parametrize("inputs", [[], [("a", Score(None, "abstain"))]], ids=["nothing", "nothing to ask"])
def test_no_step_without_a_request(inputs: Any, pooling: tuple[RewardModel, FakePooling]) -> None:
    assert list(pooling[0].score(inputs)) == inputs


def test_a_given_up_task_leaves_nothing_in_the_engine(pooling: tuple[RewardModel, FakePooling]) -> None:
    model, engine = pooling
    some = model.score((str(i), [i + 20]) for i in range(100))
    next(some)
    assert engine.held
    some.close()
    assert not engine.held
    assert dict(model.score([("next", [7])])).keys() == {"next"}


def test_equal_answers_share_the_value_and_not_the_tokens() -> None:
    given = Score(0.5, detail={"tokens": 9, "cached_tokens": 8})
    assert reward_model._shared(given, "a", row("p", "a", "x")) == given
    assert reward_model._shared(given, "a", row("p", "b", "x")) == Score(0.5, detail={"equal_to": "a"})
    failed = Score(None, "error", detail={"error": "why"})
    assert reward_model._shared(failed, "a", row("p", "b", "x")) == failed


class Words:
    """A tokenizer with a chat template, as far as rendering needs one: an id a character."""

    chat_template, cls_token_id, sep_token_id, eos_token_id, all_special_ids = "{}", None, None, 0, [0]

    def apply_chat_template(self, turns: Any, **_: Any) -> list[int]:
        ids: list[int] = []
        for turn in turns:
            ids += [*map(ord, turn["content"])] + ([0] if turn["role"] == "assistant" else [])
        return ids

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [*map(ord, text)]}


def test_inputs_are_ids_or_the_reason_there_are_none() -> None:
    from taolake.training.reward_input import Reading

    turns = [{"role": "user", "content": "q"}]
    rows = [row("p", "a", "yes") | {"messages": turns}, row("p", "b", "x" * 9) | {"messages": turns}]
    rows += [row("p", "c", None) | {"messages": turns}]
    waiting: dict[str, list[Row]] = {}
    found = dict(reward_model._inputs(questions(iter(rows)), Reading(), Words(), 6, waiting))
    assert found == {
        "a": [*map(ord, "qyes"), 0],
        "b": Score(None, "abstain", detail={"error": "11 tokens exceed max_model_len 6"}),
        "c": Score(None, "abstain", detail={"error": "no answer"}),
    }
    assert {name: [r["candidate_id"] for r in same] for name, same in waiting.items()} == {
        "a": ["a"], "b": ["b"], "c": ["c"],
    }  # fmt: skip
