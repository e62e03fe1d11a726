"""Every log shape gives the same call; bodies of all kinds are read; what cannot be read says why."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from taolake import ids
from taolake.curation.calls import Call, Found, Reaction, when
from taolake.curation.logs import read, shape_of
from tests.flywheel.rows import ANSWER, CHAT, SHAPES, TURNS, ai_gateway, langfuse, legacy, mlflow, otel, reaction, sse


def one(row: dict[str, Any]) -> Found:
    found = read(json.dumps(row).encode())
    assert len(found) == 1, found
    return found[0]


def call(row: dict[str, Any]) -> Call:
    found = one(row)
    assert isinstance(found, Call), found
    return found


def body(request: Any, response: Any = None, **changes: Any) -> list[Call]:
    row = ai_gateway(
        request=json.dumps(request), response=response if isinstance(response, str) else json.dumps(response)
    )
    found = read(json.dumps(row | changes).encode())
    assert all(isinstance(each, Call) for each in found), found
    return [each for each in found if isinstance(each, Call)]


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_the_same_call(shape: str) -> None:
    row = SHAPES[shape]()
    assert shape_of(row) == shape
    found = call(row)
    assert found.shape == shape
    assert [dict(m) for m in found.messages] == TURNS
    assert (found.answer, found.status_code, found.latency_ms) == (ANSWER, 200, 420)
    assert found.logged_at == datetime(2026, 11, 20, 10, tzinfo=UTC)
    assert (found.prompt_tokens, found.tokens) == (21, 9)


def test_what_only_some_logs_say() -> None:
    service = call(SHAPES["model_service"]())
    assert (service.user, service.session, service.consent, service.first_token_ms) == ("jo", "s-1", False, 80)
    assert service.expires_at == datetime(2027, 1, 1, tzinfo=UTC)
    assert service.model == "champion"
    assert (call(legacy()).model, call(legacy()).endpoint) == ("main.tuning.chat/3", "chat")
    assert call(ai_gateway()).user == "jo@example.org"
    assert {call(SHAPES[name]()).user for name in ("mlflow", "langfuse", "otel", "openai")} == {"jo"}
    assert {call(SHAPES[name]()).session for name in ("mlflow", "langfuse", "otel")} == {"s-1"}
    assert call(langfuse()).consent is True
    assert call(langfuse()).first_token_ms == 80


def test_feedback_of_people_comes_along_and_of_judges_does_not() -> None:
    traced = [(r.kind, r.value, r.text) for r in call(mlflow()).reactions]
    assert traced == [
        ("thumb", 1.0, "ask me at jo@example.org"),
        ("rating", 0.5, None),
        ("edit", None, "Hold it for five seconds."),
    ]
    scored = [(r.kind, r.value, r.text) for r in call(langfuse()).reactions]
    assert scored == [("thumb", -1.0, "too slow"), ("rating", 0.5, None)]


def test_names_of_people_are_hashed_in_rows() -> None:
    row = call(ai_gateway()).row("task", "here", retention_days=30)
    assert row["user_id"] == ids.user_id("jo@example.org")
    assert row["expires_at"] == datetime(2026, 12, 20, 10, tzinfo=UTC)
    found = one(reaction(source="thumb:jo@example.org", requester="jo@example.org"))
    assert isinstance(found, Reaction)
    assert "jo@" not in json.dumps(found.row(), default=str)
    named = call(ai_gateway(databricks_request_id="jo@example.org/1")).row("task", "here")
    assert "@" not in named["request_id"]


BODIES: list[Any] = [
    pytest.param({"prompt": "Once"}, {"choices": [{"text": " upon a time"}]}, "Once", "upon a time", id="completion"),
    pytest.param({"prompt": ["Once", "Twice"]}, {"choices": [{"text": "upon"}]}, "Once", "upon", id="two prompts"),
    pytest.param(
        {"input": "Hi", "instructions": "s"},
        {"output": [{"type": "reasoning"}, {"type": "message", "content": [{"type": "output_text", "text": "Ho"}]}]},
        "Hi",
        "Ho",
        id="responses",
    ),
    pytest.param({"inputs": "Hi"}, {"predictions": "Ho"}, "Hi", "Ho", id="pyfunc text"),
    pytest.param({"inputs": {"question": ["Hi"]}}, {"predictions": ["Ho"]}, "Hi", "Ho", id="pyfunc inputs"),
    pytest.param(
        {"dataframe_records": [{"messages": user("Hi")}]},
        {"predictions": [{"content": "Ho"}]},
        "Hi",
        "Ho",
        id="records",
    ),
    pytest.param(
        {"dataframe_split": {"columns": ["id", "question"], "data": [[1, "Hi"]]}},
        {"predictions": [CHAT]},
        "Hi",
        ANSWER,
        id="split",
    ),
    pytest.param(
        {"messages": user("Hi")}, {"content": [{"type": "text", "text": "Ho"}]}, "Hi", "Ho", id="content parts"
    ),
]


@pytest.mark.parametrize(("request_", "response", "asked", "answered"), BODIES)
def test_bodies(request_: Any, response: Any, asked: str, answered: str) -> None:
    (found,) = body(request_, response)
    assert (found.messages[-1]["content"], found.answer) == (asked, answered)


def test_a_batch_of_a_pyfunc_model_is_a_call_each() -> None:
    found = body({"dataframe_records": [{"prompt": "a"}, {"prompt": "b"}]}, {"predictions": ["A", "B"]})
    assert [(c.request_id, c.messages[0]["content"], c.answer) for c in found] == [
        ("gw-1#0", "a", "A"),
        ("gw-1#1", "b", "B"),
    ]


def test_chunks_of_a_stream_are_put_together() -> None:
    stream = sse(
        {"delta": {"role": "assistant", "content": "Hold the "}},
        {"delta": {"content": "button."}},
        {"delta": {}, "finish_reason": "stop"},
    )
    (found,) = body({"messages": user("Hi"), "stream": True}, stream)
    assert (found.answer, found.finish_reason) == ("Hold the button.", "stop")
    chunks = [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line.startswith("data: {")]
    assert body({"messages": user("Hi")}, json.dumps(chunks))[0].answer == "Hold the button."
    assert body({"messages": user("Hi")}, "\n".join(map(json.dumps, chunks)))[0].answer == "Hold the button."
    cut = stream[: stream.index("button")]
    assert body({"messages": user("Hi")}, cut)[0].answer == "Hold the"


def test_tools_are_text() -> None:
    pieces = [
        {"index": 0, "function": {"name": "weather", "arguments": '{"ci'}},
        {"index": 0, "function": {"arguments": 'ty": "Bonn"}'}},
    ]
    (found,) = body({"messages": user("Hi")}, sse(*({"delta": {"tool_calls": [piece]}} for piece in pieces)))
    assert json.loads(found.answer or "") == {"tool_calls": [{"name": "weather", "arguments": {"city": "Bonn"}}]}
    turns = [
        *user("Weather?"),
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "w", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "rain"},
    ]
    (found,) = body({"messages": turns}, CHAT)
    assert [m["role"] for m in found.messages] == ["user", "assistant", "tool"]
    assert '"name": "w"' in found.messages[1]["content"]


def test_pictures_are_references_without_bytes() -> None:
    data = "data:image/png;base64," + "A" * 5000
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": data}},
        {"type": "image_url", "image_url": {"url": "https://host/a.png?key=secret"}},
    ]
    (found,) = body({"messages": [{"role": "user", "content": parts}]}, CHAT)
    lines = found.messages[0]["content"].splitlines()
    assert lines[0] == "What is this?"
    assert lines[1].startswith("[image_url sha256:") and len(lines[1]) < 40
    assert lines[2] == "[image_url https://host/a.png]"


def test_a_conversation_logged_with_its_answer() -> None:
    found = call({"messages": [*TURNS, {"role": "assistant", "content": ANSWER}]})
    assert [dict(m) for m in found.messages] == TURNS
    assert found.answer == ANSWER
    assert len(found.request_id) == 32


def test_an_error_has_no_answer_and_a_truncated_answer_keeps_its_question() -> None:
    failed = call(ai_gateway(status_code=429, response='{"error": "busy"}'))
    assert (failed.status_code, failed.answer) == (429, None)
    cut = call(ai_gateway(response=None, logging_error_codes=["MAX_RESPONSE_SIZE_EXCEEDED"]))
    assert (cut.answer, cut.messages[-1]["content"]) == (None, TURNS[1]["content"])


@pytest.mark.parametrize("prefix", ["numbered", "events"])
def test_older_spans(prefix: str) -> None:
    none = {"gen_ai.input.messages": "", "gen_ai.output.messages": "", "gen_ai.system_instructions": ""}
    row = otel(**none)
    span = row["resourceSpans"][0]["scopeSpans"][0]["spans"][1]
    if prefix == "numbered":
        turns = [*TURNS]
        numbered = {f"gen_ai.prompt.{i}.{k}": v for i, turn in enumerate(turns) for k, v in turn.items()}
        numbered |= {"gen_ai.completion.0.role": "assistant", "gen_ai.completion.0.content": ANSWER}
        span["attributes"] += [{"key": k, "value": {"stringValue": v}} for k, v in numbered.items()]
    else:
        said = [(f"gen_ai.{turn['role']}.message", {"content": turn["content"]}) for turn in TURNS]
        said.append(("gen_ai.choice", {"message": json.dumps({"content": ANSWER}), "finish_reason": "stop"}))
        span["events"] = [{"name": name, "attributes": attributes} for name, attributes in said]
    found = call(row)
    assert [dict(m) for m in found.messages] == TURNS
    assert found.answer == ANSWER


REFUSED: list[tuple[bytes, str]] = [
    (b"", "empty line"),
    (b"{oops", "not JSON"),
    (b'{"a": "caf\xe9"}', "not UTF-8"),
    (b"[1]", "got a JSON list"),
    (b"[" * 100_000, "nested too deep"),
    (b'{"other": 1}', "no known shape of log: got fields other"),
    (json.dumps(ai_gateway(request=None, logging_error_codes=["MAX_REQUEST_SIZE_EXCEEDED"])).encode(), "MAX_REQUEST"),
    (json.dumps(ai_gateway(request="{oops", status_code=400)).encode(), ""),
    (json.dumps(ai_gateway(request='{"messages": []}', status_code=400)).encode(), "(status 400)"),
    (json.dumps(ai_gateway(request='{"messages": [{"role": "robot"}]}')).encode(), "turn 0 has role 'robot'"),
    (json.dumps(ai_gateway(request='{"messages": "x", "y": 1}' + " " * 9)).encode(), ""),
    (json.dumps(ai_gateway(request=json.dumps({"messages": user("x" * 999)}))).encode(), "too long: "),
    (json.dumps(reaction(kind="wink")).encode(), "reaction of kind 'wink'"),
    (json.dumps(reaction(value=7)).encode(), "not from -1 to 1"),
    (json.dumps(otel(**{"gen_ai.input.messages": ""})).encode(), "without the content of its messages"),
    (json.dumps({"resourceSpans": []}).encode(), "without any call of a model"),
    (json.dumps({"resourceSpans": [3]}).encode(), "not in the form of a otel row"),
]


@pytest.mark.parametrize(("line", "reason"), [case for case in REFUSED if case[1]])
def test_refuses_with_a_reason(line: bytes, reason: str) -> None:
    (found,) = read(line, max_chars=500)
    assert isinstance(found, str)
    assert reason in found


@pytest.mark.parametrize("shape", SHAPES)
def test_no_row_raises_whatever_its_fields_hold(shape: str) -> None:
    """Each field in turn, also inside, is replaced by values of other types."""
    tried = 0
    values: list[Any] = [None, 3, "", "x", [], [[]], {}, {"a": [None]}, True, "{", float(2**70)]
    for wrong in values:
        for path in _paths(SHAPES[shape]()):
            row = json.loads(json.dumps(SHAPES[shape]()))
            place: Any = row
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = wrong
            assert read(json.dumps(row).encode())
            tried += 1
    assert tried > 80


def _paths(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, each in inside for path in ((*before, key), *_paths(each, (*before, key)))]


MOMENTS: list[Any] = ["2026-11-20T10:00:00Z", "2026-11-20 10:00:00", "2026-11-20T11:00:00+01:00"]
MOMENTS += [1_795_168_800, 1_795_168_800_000, "1795168800000000000", 1_795_168_800.0]


@pytest.mark.parametrize("value", MOMENTS)
def test_moments(value: Any) -> None:
    assert when(value) == datetime(2026, 11, 20, 10, tzinfo=UTC)


@pytest.mark.parametrize("value", [None, "", "yesterday", True, {}, "nan", float("inf")])
def test_no_moments(value: Any) -> None:
    assert when(value) is None
