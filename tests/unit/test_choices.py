"""People's choices: what each kind of record gives, and that no record is lost on the way."""

import json
from typing import Any

import pytest

from taolake import ids
from taolake.curation import assessments, choices
from taolake.lake import PREFERENCES

Q = "how many shops"
PROMPT = ids.prompt_id("t", [{"role": "user", "content": Q}])


def read(**record: Any) -> choices.Record | str:
    line = json.dumps({"prompt": Q, **record}).encode()
    return choices.read(line, "f:1", "t")


def rows(*records: dict[str, Any]) -> list[tuple[str, str, float]]:
    """(better, worse, strength) of one unit, sorted."""
    made = choices.choose([r for r in (read(**record) for record in records) if not isinstance(r, str)])
    return sorted((r["chosen_text"], r["rejected_text"], r["strength"]) for r in made.rows)


def rating(answer: str, value: float, **more: Any) -> dict[str, Any]:
    return {"kind": "rating", "answer": answer, "rating": value, **more}


def thumb(answer: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"kind": "thumb", "answer": answer, "thumb": value, **more}


GIVES: list[tuple[str, list[dict[str, Any]], list[tuple[str, str, float]]]] = [
    (
        "one of three",
        [{"kind": "best_of", "answers": ["a", "b", "c"], "chosen": 1}],
        [("b", "a", 1.0), ("b", "c", 1.0)],
    ),
    ("one of two equal texts", [{"kind": "best_of", "answers": ["a", "b", "b"], "chosen": 2}], [("b", "a", 1.0)]),
    ("as a CSV has it", [{"kind": "best_of", "answers": '["a", "b"]', "chosen": "0"}], [("a", "b", 1.0)]),
    (
        "a ranking, successive choices",
        [{"kind": "ranking", "answers": ["a", "b", "c"], "ranks": [2, 1, 3]}],
        [("a", "c", 0.5), ("b", "a", 0.5), ("b", "c", 1.0)],
    ),
    (
        "a ranking with a tie at the top",
        [{"kind": "ranking", "answers": ["a", "b", "c"], "ranks": [1, 1, 2]}],
        [("a", "c", 1.0), ("b", "c", 1.0)],
    ),
    ("a pair", [{"kind": "pair", "chosen": "a", "rejected": "b"}], [("a", "b", 1.0)]),
    ("a faint pair", [{"kind": "pair", "chosen": "a", "rejected": "b", "strength": 0.3}], [("a", "b", 0.3)]),
    ("an edit", [{"kind": "edit", "original": "a", "edited": "b"}], [("b", "a", 1.0)]),
    ("ratings, 1 to 5", [rating("a", 5), rating("b", 4), rating("c", 4)], [("a", "b", 0.25), ("a", "c", 0.25)]),
    ("ratings on another scale", [rating("a", 80, low=0, high=100), rating("b", 5)], [("b", "a", 0.2)]),
    (
        "thumbs",
        [thumb("a", "up"), thumb("b", False), thumb("c", "DOWN")],
        [("a", "b", 1.0), ("a", "c", 1.0)],
    ),
]


@pytest.mark.parametrize(("records", "wanted"), [c[1:] for c in GIVES], ids=[c[0] for c in GIVES])
def test_what_a_kind_gives(records: list[dict[str, Any]], wanted: list[tuple[str, str, float]]) -> None:
    assert rows(*records) == wanted


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"kind": "vote"}, "got kind 'vote', wanted one of best_of"),
    ({"kind": "pair", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same text"),
    ({"kind": "pair", "chosen": "a"}, "rejected is missing"),
    ({"kind": "pair", "chosen": "a", "rejected": "b", "strength": 2}, "strength is 2, wanted more than 0"),
    ({"kind": "edit", "original": "a", "edited": " "}, "edited is of type str, wanted a text that is not empty"),
    ({"kind": "best_of", "answers": ["a"], "chosen": 0}, "got 1 answers, 1 of them different"),
    ({"kind": "best_of", "answers": ["a", "b"], "chosen": 2}, "chosen is 2, wanted a number from 0 to 1"),
    ({"kind": "best_of", "answers": ["a", "b"], "chosen": True}, "chosen is of type bool, wanted a number"),
    ({"kind": "best_of", "answers": "a, b", "chosen": 0}, "answers is text that is not JSON"),
    ({"kind": "best_of", "answers": ["a", 7], "chosen": 0}, "answers is of type int, wanted a text"),
    ({"kind": "ranking", "answers": ["a", "b"], "ranks": [1]}, "got 1 ranks for 2 answers"),
    ({"kind": "ranking", "answers": ["a", "a", "b"], "ranks": [1, 2, 3]}, "shown twice and judged differently"),
    ({"kind": "rating", "answer": "a", "rating": 7}, "rating 7 is not from 1 to 5"),
    ({"kind": "rating", "answer": "a", "rating": "nan"}, "rating is of type str, wanted a number"),
    ({"kind": "rating", "answer": "a", "rating": 1, "low": 5, "high": 1}, "got a scale from 5 to 1"),
    ({"kind": "thumb", "answer": "a", "thumb": "maybe"}, "thumb is of type str, wanted up or down"),
    ({"kind": "thumb", "answer": "a" * 20_000, "thumb": "up"}, "answer is too long: 20000 characters"),
    ({"kind": "pair", "prompt": "", "chosen": "a", "rejected": "b"}, "turn 0 is empty"),
    ({"kind": "pair", "prompt": None, "chosen": "a", "rejected": "b"}, "no conversation in column 'messages'"),
]


@pytest.mark.parametrize(("record", "reason"), REFUSED)
def test_what_cannot_be_used_says_why(record: dict[str, Any], reason: str) -> None:
    said = read(**record)
    assert isinstance(said, str)
    assert reason in said


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"\xff", b"null", b"7", b'"x"', b"[" * 100_000])
def test_what_is_no_record_says_why(line: bytes) -> None:
    assert isinstance(choices.read(line, "f:1", "t"), str)


def test_rows_are_exactly_the_table_s_columns() -> None:
    record = read(kind="pair", chosen={"text": "a", "candidate_id": "c1"}, rejected="b", annotator="kim", task="u")
    assert isinstance(record, choices.Record)
    (row,) = choices.choose([record]).rows
    assert list(row) == [part.split()[0] for part in PREFERENCES.columns.split(",\n")]
    prompt = ids.prompt_id("u", [{"role": "user", "content": Q}])
    assert (row["prompt_id"], row["task"], row["annotator"], row["chosen"]) == (prompt, "u", "kim", "c1")
    assert row["rejected"] == ids.content_hash("answer", prompt, "b")
    assert json.loads(row["messages"]) == [{"role": "user", "content": Q}]


def test_a_record_survives_its_way() -> None:
    record = read(kind="ranking", answers=["a", "b"], ranks=[1, 2])
    assert isinstance(record, choices.Record)
    assert choices.from_json(choices.to_json(record)) == record


def test_rows_of_one_choice_share_it_and_ties_are_choices_of_their_own() -> None:
    record = read(kind="ranking", answers=["a", "b", "c", "d"], ranks=[1, 1, 2, 3])
    assert isinstance(record, choices.Record)
    made = choices.choose([record]).rows
    shown: dict[str, list[str]] = {}
    for row in made:
        shown.setdefault(row["choice"], [row["chosen_text"]]).append(row["rejected_text"])
    assert sorted([v[0], *sorted(v[1:])] for v in shown.values()) == [["a", "c", "d"], ["b", "c", "d"], ["c", "d"]]


def test_people_and_aspects_are_kept_apart() -> None:
    said = [
        read(**thumb("a", "up", annotator="kim")),
        read(**thumb("b", "down", annotator="lee")),
        read(**thumb("b", "down", annotator="kim", aspect="tone")),
        read(**rating("b", 1, annotator="kim")),
    ]
    assert len({r.unit for r in said if not isinstance(r, str)}) == 4


UNITS: list[tuple[str, list[dict[str, Any]], dict[int, str], list[int]]] = [
    ("a lone thumb", [thumb("a", "up")], {0: "a lone thumb"}, []),
    ("two thumbs up", [thumb("a", "up"), thumb("b", "up")], dict.fromkeys((0, 1), "got the same thumb"), []),
    ("said twice", [thumb("a", "up"), thumb("b", "down"), thumb("a", "up")], {}, [2]),
    (
        "said both",
        [thumb("a", "up"), thumb("b", "down"), thumb("a", "down")],
        {0: "different verdicts", 2: "different verdicts", 1: "a lone thumb"},
        [],
    ),
    ("a lone rating, twice", [rating("a", 3), rating("a", 3)], dict.fromkeys((0, 1), "a lone rating"), []),
    (
        "all tied",
        [{"kind": "ranking", "answers": ["a", "b"], "ranks": [1, 1]}],
        {0: "no answer is better than another"},
        [],
    ),
]


@pytest.mark.parametrize(("records", "refused", "folded"), [u[1:] for u in UNITS], ids=[u[0] for u in UNITS])
def test_every_record_of_a_unit_is_accounted_for(
    records: list[dict[str, Any]], refused: dict[int, str], folded: list[int]
) -> None:
    made = choices.choose([r for r in (read(**record) for record in records) if not isinstance(r, str)])
    assert made.refused.keys() == refused.keys()
    assert all(reason in made.refused[place] for place, reason in refused.items())
    assert made.folded == folded
    assert bool(made.rows) == (len(refused) + len(folded) < len(records))


def vote(who: str, better: str, worse: str) -> dict[str, Any]:
    return {"prompt_id": "p", "annotator": who, "chosen": better, "rejected": worse}


@pytest.mark.parametrize(
    ("votes", "wanted"),
    [
        ([], None),
        ([vote("kim", "a", "b")], None),
        ([vote("kim", "a", "b"), vote("lee", "a", "b")], 0.0),
        ([vote("kim", "a", "b"), vote("lee", "b", "a")], 1.0),
        ([vote("kim", "a", "b"), vote("lee", "b", "a"), vote("max", "a", "b")], 2 / 3),
        ([vote("kim", "a", "b"), vote("kim", "b", "a"), vote("lee", "a", "b")], 0.5),
    ],
)
def test_disagreement(votes: list[dict[str, Any]], wanted: float | None) -> None:
    assert choices.disagreement(votes) == (None if wanted is None else pytest.approx(wanted))


# ---- MLflow assessments


def trace(inputs: Any, outputs: Any, *assessed: dict[str, Any]) -> dict[str, Any]:
    """A trace as MLflow writes it, with assessments by a person unless they say otherwise."""
    person = {"assessment_name": "quality", "source": {"source_type": "HUMAN", "source_id": "kim"}, "valid": True}
    given = [{"assessment_id": f"a{i}", **person, **a} for i, a in enumerate(assessed)]
    root = {"mlflow.spanInputs": json.dumps(inputs), "mlflow.spanOutputs": json.dumps(outputs)}
    spans = [{"parent_span_id": "x", "attributes": {}}, {"parent_span_id": None, "attributes": root}]
    return {"info": {"trace_id": "tr", "assessments": given}, "data": {"spans": spans}}


ASSESSED: list[tuple[dict[str, Any], dict[str, Any] | str]] = [
    ({"feedback": {"value": True}}, {"kind": "thumb", "answer": "42", "thumb": True, "aspect": "quality"}),
    ({"feedback": {"value": 4.0}}, {"kind": "rating", "answer": "42", "rating": 4.0, "low": 1, "high": 5}),
    ({"feedback": {"value": 4}, "metadata": {"high": "10"}}, {"kind": "rating", "high": "10"}),
    (
        {"assessment_name": "expected_response", "expectation": {"value": "43"}},
        {"kind": "edit", "original": "42", "edited": "43"},
    ),
    ({"expectation": {"serialized_value": {"value": "[1]"}}}, "expectation 'quality' is no answer"),
    ({"feedback": {"value": True}, "valid": False}, "overridden by a later one"),
    ({"feedback": {"value": True}, "source": {"source_type": "LLM_JUDGE"}}, "given by LLM_JUDGE"),
    ({"feedback": {"value": {"a": 1}}}, "feedback of type dict"),
    ({"feedback": {"value": None, "error": {"error_code": "x"}}}, "the feedback is an error"),
    ({"issue": {}}, "neither feedback nor an expectation"),
]


@pytest.mark.parametrize(("assessed", "wanted"), ASSESSED)
def test_an_assessment_is_a_record_or_a_reason(assessed: dict[str, Any], wanted: dict[str, Any] | str) -> None:
    ((place, record),) = assessments.records(trace({"question": Q}, "42", assessed))
    assert place == "tr/a0"
    if isinstance(wanted, str):
        assert isinstance(record, str) and wanted in record
    else:
        assert isinstance(record, dict) and wanted.items() <= record.items()
        assert (record["prompt"], record["annotator"]) == (Q, "kim")


TURNS = [{"role": "user", "content": Q}]


@pytest.mark.parametrize(
    ("inputs", "prompt"),
    [
        (Q, Q), ({"messages": TURNS}, TURNS), ({"x": Q}, Q), ({"request": {"messages": TURNS}}, TURNS),
        ({"inputs": {"query": Q}, "k": 3}, Q), ({"x": Q, "y": "other"}, None), (None, None), (" ", None),
    ],
)  # fmt: skip
def test_where_the_prompt_of_a_trace_is(inputs: Any, prompt: Any) -> None:
    assert assessments.prompt_of(inputs) == prompt


@pytest.mark.parametrize(
    ("outputs", "answer"),
    [
        ("a", "a"), ({"choices": [{"message": {"content": "a"}}]}, "a"), ({"content": [{"text": "a"}]}, "a"),
        ({"messages": [*TURNS, {"role": "assistant", "content": "a"}]}, "a"),
        ({"x": "a"}, None), ([], None), ("", None),
    ],
)  # fmt: skip
def test_where_the_answer_of_a_trace_is(outputs: Any, answer: str | None) -> None:
    assert assessments.answer_of(outputs) == answer


def test_a_trace_without_an_answer_is_a_reason() -> None:
    ((_, record),) = assessments.records(trace({"question": Q}, None, {"feedback": {"value": True}}))
    assert record == "no answer in its outputs: wanted text, or turns under `messages`"
