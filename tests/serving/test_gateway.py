"""The gateway over real HTTP, before a stand-in upstream: passes on, refuses, splits, and logs what it answered."""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from taolake.config import Gateway, Version
from taolake.gateway import rows, server
from taolake.gateway.limits import Keys, Rate, read_keys
from taolake.gateway.split import Upstream, choose
from tests.gateways import KEY, Running, gateway

HEADERS = {"authorization": f"Bearer {KEY}"}
CHAT = "/v1/chat/completions"


def body(question: str = "hi", **more: Any) -> dict[str, Any]:
    return {"model": "shop", "messages": [{"role": "user", "content": question}], **more}


def lines(folder: Path) -> list[dict[str, Any]]:
    """What the spool holds once it is sealed."""
    return [
        json.loads(line) for file in sorted(folder.glob("*.sealed")) for line in file.read_text().splitlines() if line
    ]


def post(running: Running, path: str = CHAT, **kwargs: Any) -> httpx.Response:
    kwargs = {"headers": HEADERS, "timeout": 30, **kwargs}
    return httpx.post(running.url + path, trust_env=False, **kwargs)


def client(running: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0)


def test_the_openai_client_works_unchanged_and_all_is_logged(tmp_path: Path) -> None:
    with gateway(tmp_path) as running:
        ask = client(running).chat.completions.create
        turns: Any = [{"role": "user", "content": "hi"}]
        whole = ask(model="champion", messages=turns, user="kim")
        assert whole.choices[0].message.content == "champion word0 word1 word2 word3 word4"
        streamed = [chunk.choices[0].delta.content or "" for chunk in ask(model="shop", messages=turns, stream=True)]
        assert len(streamed) == 7 and "".join(streamed).endswith(" word0 word1 word2 word3 word4")
        assert [model.id for model in client(running).models.list()] == ["shop", "champion", "challenger"]
        with pytest.raises(openai.BadRequestError, match="too long"):
            ask(model="champion", messages=[{"role": "user", "content": "error"}])
        with pytest.raises(openai.NotFoundError, match="wanted one of shop, champion, challenger"):
            ask(model="other", messages=turns)
    first, second, refused = (rows.payload(line) for line in lines(running.spool))
    assert first["databricks_request_id"] == whole._request_id
    assert json.loads(first["request"]) == {"model": "champion", "messages": turns, "user": "kim"}
    assert json.loads(first["response"])["choices"][0]["message"]["content"] == whole.choices[0].message.content
    assert (first["requester"], first["served_entity_id"], first["share"]) == ("kim", "m/1", None)
    assert (second["requester"], second["share"] in (0.75, 0.25)) == ("team", True)
    joined = json.loads(second["response"])
    assert joined["choices"][0] == {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": "".join(streamed)},
    }
    assert (joined["object"], joined["usage"]) == ("chat.completion", {"total_tokens": 9})
    assert [row["status_code"] for row in (first, second, refused)] == [200, 200, 400]


def test_a_stream_is_passed_on_piece_by_piece_and_its_end_waits_for_the_log(tmp_path: Path) -> None:
    """The bytes are the upstream's own; by the time [DONE] is seen the line is in a file."""
    with gateway(tmp_path) as running:
        running.upstream.may_go_on.clear()
        arrived: list[bytes] = []
        on_disk = []
        with httpx.stream(
            "POST", running.url + CHAT, json=body(stream=True), headers=HEADERS, trust_env=False
        ) as reply:
            for piece in reply.iter_raw():
                arrived.append(piece)
                on_disk.append(any(file.stat().st_size for file in running.spool.glob("*.open")))
                if b"word0" in b"".join(arrived):  # here before the upstream said more
                    running.upstream.may_go_on.set()
        assert len(arrived) >= 3
        assert b"[DONE]" in arrived[-1] and b"[DONE]" not in b"".join(arrived[:-1])
        assert on_disk[-1] and not on_disk[0]  # in between the gateway may be ahead of who reads here


def test_a_stream_in_odd_pieces_is_whole(tmp_path: Path) -> None:
    with gateway(tmp_path) as running:
        plain = post(running, json=body("hi", model="champion", stream=True)).text
        torn = post(running, json=body("torn", model="champion", stream=True)).text

        def stripped(text: str) -> list[Any]:
            events = [json.loads(e[6:]) for e in text.split("\n\n") if e.startswith("data: {")]
            return [event.get("choices") for event in events]

        assert stripped(torn) == stripped(plain) and len(stripped(plain)) == 7
        assert torn.endswith("data: [DONE]\n\n")


def test_what_breaks_in_the_middle_is_told_and_logged(tmp_path: Path) -> None:
    with gateway(tmp_path, answer_s=1.0) as running:
        with pytest.raises(httpx.RemoteProtocolError):
            post(running, json=body("break", stream=True))
        hung = post(running, json=body("hang"))
        assert (hung.status_code, hung.json()["error"]["type"]) == (504, "server_error")
        with pytest.raises(httpx.ReadTimeout):  # the caller goes away
            post(running, json=body("hang"), timeout=0.3)
        deadline = time.monotonic() + 5
        while sum(file.read_text().count("\n") for file in running.spool.glob("*.open")) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    broken, hung_row, left = (rows.payload(line) for line in lines(running.spool))
    assert [row["status_code"] for row in (broken, hung_row, left)] == [502, 504, 499]
    said = json.loads(broken["response"])["choices"][0]
    assert said["message"]["content"].endswith("word1") and "finish_reason" not in said


REFUSALS: list[tuple[str, int, dict[str, Any]]] = [
    ("no key", 401, {"json": body(), "headers": {}}),
    ("another key", 401, {"json": body(), "headers": {"authorization": f"Bearer {KEY}x"}}),
    ("another scheme", 401, {"json": body(), "headers": {"authorization": f"Basic {KEY}"}}),
    ("too large", 413, {"json": body("x" * 3000)}),
    ("too large, without saying so", 413, {"content": iter([b"{" + b" " * 1000] * 5), "headers": HEADERS}),
    ("no JSON", 400, {"content": b"{broken"}),
    ("no UTF-8", 400, {"content": b'{"a": "\xff"}'}),
    ("nested too deep", 400, {"content": b"[" * 1000}),
    ("no object", 400, {"content": b"[]"}),
    ("no JSON by its header", 415, {"content": b"{}", "headers": {**HEADERS, "content-type": "text/plain"}}),
    ("an unknown model", 404, {"json": body(model="gpt")}),
    ("a model that is no text", 404, {"json": body(model=["shop"])}),
    ("feedback without a request", 422, {"path": "/v1/feedback", "json": {"thumb": "up"}}),
    ("feedback without a word", 422, {"path": "/v1/feedback", "json": {"request_id": "r"}}),
    ("a thumb sideways", 422, {"path": "/v1/feedback", "json": {"request_id": "r", "thumb": "left"}}),
    ("an empty edit", 422, {"path": "/v1/feedback", "json": {"request_id": "r", "edit": " "}}),
    ("no such path", 404, {"path": "/v1/files", "json": {}}),
]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with gateway(tmp_path_factory.mktemp("strict"), max_request_kb=2, header_s=1, body_s=1) as running:
        yield running


@pytest.mark.parametrize(("status", "call"), [(s, c) for _, s, c in REFUSALS], ids=[name for name, _, _ in REFUSALS])
def test_refusals_have_the_right_status_and_openais_shape(strict: Running, status: int, call: dict[str, Any]) -> None:
    given = {"headers": HEADERS, **call}
    if "content" in given:
        given["headers"] = {"content-type": "application/json", **given["headers"]}
    reply = post(strict, given.pop("path", CHAT), **given)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert KEY not in reply.text
    assert strict.upstream.asked == []


def test_a_wrong_method_is_refused(strict: Running) -> None:
    assert httpx.get(strict.url + CHAT, headers=HEADERS, trust_env=False).status_code == 405


SLOW: list[tuple[str, bytes, bytes]] = [
    ("nothing at all", b"", b"408"),
    ("headers that do not end", b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n", b"408"),
    ("empty lines", b"\r\n\r\n", b"408"),
    ("a body that does not end", b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
     b"authorization: Bearer " + KEY.encode() + b"\r\ncontent-length: 100\r\n\r\n{", b"408"),
    ("headers without end", b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 20_000, b"431"),
    ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "status"), [(s, w) for _, s, w in SLOW], ids=[name for name, _, _ in SLOW])
def test_who_sends_slowly_or_nonsense_is_cut_off(strict: Running, sent: bytes, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", strict.port), timeout=10) as line:
        line.sendall(sent)
        said = b"".join(iter(lambda: line.recv(4096), b""))  # to the end: it is cut off
        assert said.split(b" ")[1] == status
        assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["message"]


def test_a_key_has_a_rate(tmp_path: Path) -> None:
    with gateway(tmp_path, requests_per_minute=2) as running:
        assert [post(running, json=body()).status_code for _ in range(3)] == [200, 200, 429]
        late = post(running, json=body())
        assert 1 <= int(late.headers["retry-after"]) <= 30
        assert late.json()["error"]["code"] == "rate_limit_exceeded"


def test_only_so_many_are_answered_at_once(tmp_path: Path) -> None:
    with gateway(tmp_path, concurrency=1) as running, httpx.Client(trust_env=False) as held:
        running.upstream.may_go_on.clear()
        with held.stream("POST", running.url + CHAT, json=body(stream=True), headers=HEADERS) as reply:
            assert reply.status_code == 200
            assert post(running, json=body()).status_code == 429
            running.upstream.may_go_on.set()
            reply.read()
        assert post(running, json=body()).status_code == 200


def test_feedback_becomes_reactions(tmp_path: Path) -> None:
    with gateway(tmp_path) as running:
        said = {"request_id": "r1", "thumb": "down", "comment": "rude", "edit": "better", "user": "kim"}
        assert post(running, "/v1/feedback", json=said).json() == {"recorded": 2}
        assert post(running, "/v1/feedback", json={"request_id": "r1", "regenerate": True}).status_code == 200
    made = [rows.reaction(line) for line in lines(running.spool)]
    assert [(r["source"], r["value"], r["text"]) for r in made] == [
        ("thumb:kim", -1.0, "rude"), ("edit:kim", None, "better"), ("regenerate:team", -1.0, None),
    ]  # fmt: skip


def test_a_share_of_the_requests_is_logged(tmp_path: Path) -> None:
    with gateway(tmp_path, sampling_fraction=0.3) as running, httpx.Client(trust_env=False, headers=HEADERS) as held:
        for _ in range(60):
            assert held.post(running.url + CHAT, json=body()).status_code == 200
    kept = lines(running.spool)
    assert 5 <= len(kept) <= 33
    assert {line["sampled"] for line in kept} == {0.3}


def test_what_is_too_large_to_log_is_answered_and_said(tmp_path: Path) -> None:
    with gateway(tmp_path, words=200, max_logged_kb=1) as running:
        assert post(running, json=body("x" * 1500)).status_code == 200
        assert len(post(running, json=body("hi", stream=True)).text) > 10_000
    large, small = (rows.payload(line) for line in lines(running.spool))
    assert (large["request"], large["response"]) == (None, None)
    assert large["logging_error_codes"] == ["MAX_REQUEST_SIZE_EXCEEDED", "MAX_RESPONSE_SIZE_EXCEEDED"]
    assert small["request"] is not None and small["logging_error_codes"] == ["MAX_RESPONSE_SIZE_EXCEEDED"]


def test_a_log_that_cannot_be_written_stops_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from taolake.gateway.spool import Spool

    def full(self: Spool, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with gateway(tmp_path) as running:
        assert post(running, json=body()).status_code == 200
        with monkeypatch.context() as patched:
            patched.setattr(Spool, "_write", full)
            assert post(running, json=body()).status_code == 503
            assert post(running, "/v1/feedback", json={"request_id": "r", "thumb": "up"}).status_code == 503
            with pytest.raises(httpx.RemoteProtocolError):
                post(running, json=body(stream=True))
        assert post(running, json=body()).status_code == 200
    assert len(lines(running.spool)) == 2


def versions(*shares: float) -> list[Upstream]:
    return [Upstream(f"v{i}", "u", "m", f"e{i}", share) for i, share in enumerate(shares)]


def test_a_caller_stays_and_shares_are_kept() -> None:
    callers = [f"caller-{i}" for i in range(4000)]
    dealt = {caller: choose(versions(0.9, 0.1), caller) for caller in callers}
    assert all(choose(versions(0.9, 0.1), caller) == dealt[caller] for caller in callers)
    got = sum(choice.upstream.name == "v1" for choice in dealt.values())
    assert 330 < got < 470  # 400 expected; four standard deviations are 76
    assert {(c.upstream.name, c.share) for c in dealt.values()} == {("v0", 0.9), ("v1", 0.1)}
    grown = {caller: choose(versions(0.7, 0.3), caller).upstream.name for caller in callers}
    assert all(grown[caller] == "v1" for caller in callers if dealt[caller].upstream.name == "v1")
    assert choose(versions(1.0, 0.0), "x").share is None
    assert any(choose(versions(0.5, 0.5), c, "a") != choose(versions(0.5, 0.5), c, "b") for c in callers[:20])


def test_a_bucket_is_refilled() -> None:
    rate = Rate(60)
    assert [rate.wait("k", now=0.0) for _ in range(60)] == [0.0] * 60
    assert rate.wait("k", now=0.0) == 1.0
    assert rate.wait("other", now=0.0) == 0.0
    assert rate.wait("k", now=1.0) == 0.0
    assert Rate(None).wait("k") == 0.0


def test_keys_are_read_and_never_shown() -> None:
    assert read_keys(f"{KEY}==") == {"key": f"{KEY}=="}  # base64 ends like this
    assert read_keys(f"a={KEY}, b={KEY}1 ") == {"a": KEY, "b": f"{KEY}1"}
    assert read_keys("") == {}
    with pytest.raises(ValueError, match="has 5 characters") as short:
        read_keys("a=short")
    assert "short," not in str(short.value)
    with pytest.raises(ValueError, match="repeats"):
        read_keys(f"a={KEY},a={KEY}")
    assert Keys({"a": KEY}).owner(f"bearer {KEY}".encode()) == "a"
    assert KEY not in repr(vars(Keys({"a": KEY})))


def test_others_reach_it_with_a_key_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAOLAKE_GATEWAY_KEYS", raising=False)
    assert not server.keys_for(Gateway())
    with pytest.raises(ValueError, match="holds no key"):
        server.keys_for(Gateway(host="0.0.0.0"))
    monkeypatch.setenv("TAOLAKE_GATEWAY_KEYS", KEY)
    assert server.keys_for(Gateway(host="0.0.0.0"))


WRONG: list[tuple[Callable[[], Gateway], str]] = [
    (lambda: Gateway(versions=(Version(name="a"), Version(name="a"))), "repeat names"),
    (lambda: Gateway(versions=(Version(name="a", share=0),)), "no share"),
    (lambda: Gateway(versions=(Version(name="a", adapter="x"),)), "has an adapter"),
]


@pytest.mark.parametrize(("make", "said"), WRONG, ids=[said for _, said in WRONG])
def test_versions_that_make_no_sense_are_refused(make: Callable[[], Gateway], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_tool_calls_are_joined() -> None:
    def event(**delta: Any) -> str:
        return "data: " + json.dumps({"id": "c", "choices": [{"index": 0, "delta": delta}]}) + "\n\n"

    def call(**function: str) -> dict[str, Any]:
        return {"index": 0, "function": function}

    stream = event(role="assistant", tool_calls=[{**call(name="look", arguments=""), "id": "t1"}])
    stream += event(tool_calls=[call(arguments='{"a"')]) + event(tool_calls=[call(arguments=": 1}")])
    stream += 'data: {"broken\n\n' + "data: [DONE]\n\n"
    (choice,) = rows.joined(stream)["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}, "id": "t1"}],
    }
