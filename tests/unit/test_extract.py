"""Prompt variants and the answers taken back out of them."""

import pytest

from taolake.config import Extract, Strategy
from taolake.scoring.extract import extract, variant
from taolake.types import Message


@pytest.mark.parametrize(
    ("spec", "text", "answer"),
    [
        ({"kind": "whole"}, " as it is\n", " as it is\n"),
        ({"kind": "whole"}, "", ""),
        ({"kind": "after", "marker": "Answer:"}, "Answer: draft\nAnswer: final ", "final"),
        ({"kind": "after", "marker": "Answer:"}, "no marker", None),
        ({"kind": "after", "marker": "Answer:"}, "Answer:", ""),
        ({"kind": "after", "marker": "答案="}, "思考…答案= 四十二", "四十二"),
        ({"kind": "json"}, '{"answer": "yes"}', "yes"),
        ({"kind": "json"}, 'Draft {"answer": "a"}, then\n```json\n{"answer": "b"}\n```', "b"),
        ({"kind": "json"}, '{"answer": "kept"} and {"note": 1}', "kept"),
        ({"kind": "json"}, '{"answer": {"n": 1, "s": "é"}}', '{"n": 1, "s": "é"}'),
        ({"kind": "json"}, '{"outer": {"answer": "inner"}}', None),
        ({"kind": "json", "field": "sql"}, 'set {x} then {"sql": "SELECT 1"}', "SELECT 1"),
        ({"kind": "json"}, '{"answer": null}', None),
        ({"kind": "json"}, '{"answer": "cut o', None),
        ({"kind": "json"}, "", None),
        ({"kind": "json"}, "{" * 50_000, None),
        ({"kind": "json"}, '{"a":' * 50_000, None),
        ({"kind": "regex", "pattern": r"<a>(.*?)</a>"}, "<a>one</a><a>two</a>", "one"),
        ({"kind": "regex", "pattern": r"<a>(.*?)</a>"}, "none", None),
        ({"kind": "regex", "pattern": r"x|(y)"}, "x", None),
    ],
)
def test_extract(spec: dict[str, str], text: str, answer: str | None) -> None:
    assert extract(text, Extract.model_validate(spec)) == answer


@pytest.mark.parametrize("spec", [{"kind": "after"}, {"kind": "regex", "pattern": "no group"}])
def test_spec_that_cannot_extract_is_refused(spec: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"needs a `marker`|has no group"):
        Extract.model_validate(spec)


def strategy(**options: object) -> Strategy:
    return Strategy.model_validate({"name": "s", "share": 1, **options})


def turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}  # type: ignore[typeddict-item]


TALK = [turn("system", "old"), turn("user", "first"), turn("assistant", "hm"), turn("user", "last {question}")]
SHOT = [{"question": "q {question}", "answer": "a"}]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, TALK),
        ({"template": "Think. {question} {x}!"}, [*TALK[:3], turn("user", "Think. last {question} {x}!")]),
        ({"system": "new"}, [turn("system", "new"), *TALK[1:]]),
        ({"system": ""}, [turn("system", ""), *TALK[1:]]),
        ({"examples": SHOT}, [TALK[0], turn("user", "q {question}"), turn("assistant", "a"), *TALK[1:]]),
        (
            {"system": "new", "examples": SHOT, "template": "{question}?"},
            [
                turn("system", "new"),
                turn("user", "q {question}"),
                turn("assistant", "a"),
                *TALK[1:3],
                turn("user", "last {question}?"),
            ],
        ),
    ],
)
def test_variant(options: dict[str, object], expected: list[Message]) -> None:
    before = [dict(m) for m in TALK]
    assert variant(TALK, strategy(**options)) == expected
    assert before == TALK


def test_template_goes_around_the_last_user_turn_even_before_an_assistant_turn() -> None:
    talk = [turn("user", "q"), turn("assistant", "prefill")]
    assert variant(talk, strategy(template="<{question}>")) == [turn("user", "<q>"), turn("assistant", "prefill")]
    assert variant([turn("user", "")], strategy(template="<{question}>")) == [turn("user", "<>")]


@pytest.mark.parametrize("talk", [[], [turn("system", "s")]])
def test_conversation_without_a_user_is_refused(talk: list[Message]) -> None:
    with pytest.raises(ValueError, match="wanted a `user` turn"):
        variant(talk, strategy())
