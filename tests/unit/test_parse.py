"""Logged lines: what becomes a prompt, and what is refused with which words."""

import json

import pytest

from taolake.curation.parse import Logged, parse


def line(**row: object) -> bytes:
    return json.dumps(row).encode()


def turns(*pairs: tuple[str, object]) -> list[dict[str, object]]:
    return [{"role": role, "content": content} for role, content in pairs]


GOOD = [
    pytest.param(line(messages=turns(("user", " Hi "))), [("user", "Hi")], id="stripped"),
    pytest.param(line(messages="How many?"), [("user", "How many?")], id="plain question"),
    pytest.param(line(messages=json.dumps(turns(("user", "a")))), [("user", "a")], id="messages as JSON text"),
    pytest.param(line(messages="[brackets] are fine"), [("user", "[brackets] are fine")], id="question with bracket"),
    pytest.param(
        line(messages=turns(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"))),
        [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")],
        id="several turns",
    ),
    pytest.param(line(messages=turns(("user", "a"), ("assistant", "b"))), [("user", "a")], id="given answer dropped"),
    pytest.param(
        line(
            messages=turns(
                ("user", [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}])
            )
        ),
        [("user", "a\nb")],
        id="text parts",
    ),
    pytest.param(line(request=json.dumps({"messages": turns(("user", "a"))})), [("user", "a")], id="payload row"),
    pytest.param(line(request={"prompt": "complete me"}), [("user", "complete me")], id="completion body"),
]


@pytest.mark.parametrize(("raw", "wanted"), GOOD)
def test_accepts(raw: bytes, wanted: list[tuple[str, str]]) -> None:
    logged = parse(raw, "messages")
    assert isinstance(logged, Logged), logged
    assert [(m["role"], m["content"]) for m in logged.messages] == wanted


BAD = [
    (b"", "empty line"),
    (b"  ", "empty line"),
    (b"{oops", "not JSON"),
    (b'{"messages": "caf\xe9"}', "not UTF-8: byte 17 is 0xe9"),
    (b"[1]", "got a JSON list"),
    (b"[" * 100_000, "nested too deep"),
    (line(other=1), "no conversation in column 'messages'"),
    (line(messages=[]), "no user turn"),
    (line(messages=turns(("assistant", "a"))), "no user turn"),
    (line(messages=turns(("user", ""))), "turn 0 is empty"),
    (line(messages=turns(("robot", "a"))), "turn 0 has role 'robot'"),
    (line(messages=["a"]), "turn 0 has role 'a'"),
    (line(messages=turns(("user", 3))), "content of type int"),
    (line(messages=[{"role": "user"}]), "content of type NoneType"),
    (line(messages=turns(("user", "a"), ("system", "b"))), "turn 1 is a system turn"),
    (line(messages="x" * 101), "too long: 101 characters, limit 100"),
    (line(request="{oops"), "request is not JSON"),
    (line(request="[1]"), "request is a JSON list"),
]


@pytest.mark.parametrize(("raw", "reason"), BAD)
def test_refuses_with_a_reason(raw: bytes, reason: str) -> None:
    said = parse(raw, "messages", max_chars=100)
    assert isinstance(said, str)
    assert reason in said


def test_system_turn_is_added_where_there_is_none() -> None:
    logged = parse(line(messages="a"), "messages", system="be brief")
    assert isinstance(logged, Logged)
    assert [m["role"] for m in logged.messages] == ["system", "user"]
    kept = parse(line(messages=turns(("system", "own"), ("user", "a"))), "messages", system="be brief")
    assert isinstance(kept, Logged)
    assert kept.messages[0]["content"] == "own"


@pytest.mark.parametrize("name", ["databricks_request_id", "request_id", "client_request_id", "id"])
def test_request_id_is_found(name: str) -> None:
    logged = parse(line(messages="a", **{name: "r1"}), "messages")
    assert isinstance(logged, Logged)
    assert logged.request_id == "r1"
