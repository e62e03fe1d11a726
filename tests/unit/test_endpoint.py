"""The endpoint engine against a real HTTP server: what each kind of reply becomes, and that no reply ends a job."""

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from taolake.config import EndpointEngine
from taolake.engines import endpoint, window
from taolake.engines.endpoint import Endpoint
from taolake.types import Completion, Request, Sampling

KEY = "sk-do-not-tell"
Reply = tuple[int, dict[str, str], bytes]


def chat(text: str) -> Reply:
    """What a healthy server says."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    name = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    body = {**name, "choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}}
    return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()


@dataclass
class Server:
    """An HTTP server in this process; `answer` is asked with each request's body and its number for that question.

    `paid` counts, for each question, the replies that a provider would charge for.
    """

    answer: Callable[[dict[str, Any], int], Reply]
    seen: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    paid: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        owner, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    owner.seen.append(body)
                    owner.headers.append(dict(self.headers))
                    owner.paths.append(self.path)
                    times = sum(b["messages"] == body["messages"] for b in owner.seen)
                status, headers, text = owner.answer(body, times)
                with lock:
                    owner.paid[json.dumps(body["messages"])] += status == 200
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text))}.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # a client that timed out is gone
                    self.wfile.write(text)

            def log_message(self, *args: Any) -> None:
                """Keep the test's output clean."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Start servers, and close them at the end; a proxy of the machine must not stand between."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("TAOLAKE_ENDPOINT_KEY", KEY)
    started: list[Server] = []

    def start(answer: Callable[[dict[str, Any], int], Reply]) -> Server:
        started.append(Server(answer))
        return started[-1]

    yield start
    for each in started:
        each.server.shutdown()
        each.server.server_close()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the engine would have slept; nobody waits."""
    slept: list[float] = []
    clock = SimpleNamespace(sleep=slept.append, monotonic=time.monotonic)
    monkeypatch.setattr(endpoint, "time", clock)
    return slept


def engine_for(server: Server, **changes: Any) -> Endpoint:
    settings = {"kind": "endpoint", "url": server.url, "model": "m", "concurrency": 2, "retries": 2, "timeout_s": 5}
    return Endpoint(EndpointEngine.model_validate(settings | changes))


def request(question: str, **sampling: Any) -> Request:
    return Request(f"key {question}", ({"role": "user", "content": question},), Sampling(9, **sampling), 2**40 + 3)


def ask(engine: Endpoint, *questions: str) -> dict[str, Completion]:
    done = list(window.run(engine, [request(q) for q in questions]))
    assert len(done) == len(questions)
    return {each.key.removeprefix("key "): each for each in done}


def test_200_is_an_answer_with_its_counts(serve: Callable[..., Server], pauses: list[float]) -> None:
    server = serve(lambda body, times: chat("re: " + body["messages"][0]["content"]))
    found = ask(engine_for(server), *(f"q{i}" for i in range(20)))
    assert {question: done.text for question, done in found.items()} == {f"q{i}": f"re: q{i}" for i in range(20)}
    one = found["q0"]
    assert (one.status, one.finish_reason, one.prompt_tokens, one.completion_tokens, one.error) == (
        "ok",
        "stop",
        7,
        2,
        "",
    )
    assert 0 < one.seconds < 5
    assert server.paths == ["/v1/chat/completions"] * 20
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert pauses == []


def test_only_what_cuts_something_is_asked_for(serve: Callable[..., Server]) -> None:
    """Not every provider knows top_k or min_p; several take seeds of 31 bits only."""
    server = serve(lambda body, times: chat("x"))
    engine = engine_for(server)
    bare = {
        "model": "m",
        "messages": [{"role": "user", "content": "q"}],
        "max_tokens": 9,
        "temperature": 1.0,
        "seed": 3,
    }
    cut = {"top_p": 0.9, "top_k": 5, "min_p": 0.1, "stop": ["\n"]}
    list(window.run(engine, [request("q")]))
    list(window.run(engine, [request("q", top_p=0.9, top_k=5, min_p=0.1, stop=("\n",), temperature=0.0)]))
    assert server.seen == [bare, bare | cut | {"temperature": 0.0}]


def test_without_a_key_none_is_sent(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAOLAKE_ENDPOINT_KEY")
    server = serve(lambda body, times: chat("x"))
    assert ask(engine_for(server), "q")["q"].status == "ok"
    assert "Authorization" not in server.headers[0]


def test_429_waits_as_told_and_tries_again(serve: Callable[..., Server], pauses: list[float]) -> None:
    server = serve(lambda body, times: (429, {"Retry-After": "3"}, b"slow down") if times == 1 else chat("now"))
    done = ask(engine_for(server), "q")["q"]
    assert (done.status, done.text) == ("ok", "now")
    assert len(server.seen) == 2
    assert 3.0 in pauses


def test_500_forever_ends_as_an_error_row(serve: Callable[..., Server], pauses: list[float]) -> None:
    server = serve(lambda body, times: (500, {}, b"boom") if "bad" in str(body) else chat("fine"))
    found = ask(engine_for(server), "bad", "good")
    assert (found["bad"].status, found["bad"].error) == ("error", "gave up after 3 tries: HTTP 500: boom")
    assert (found["bad"].text, found["bad"].token_ids) == ("", ())
    assert found["good"].text == "fine"
    assert len(server.seen) == 4
    assert len(pauses) == 2
    assert 0.5 <= pauses[0] <= 1 <= pauses[1] <= 2


def test_400_is_invalid_and_is_not_tried_again(serve: Callable[..., Server], pauses: list[float]) -> None:
    server = serve(lambda body, times: (400, {}, b"context too long"))
    done = ask(engine_for(server), "q")["q"]
    assert (done.status, done.error) == ("invalid", "HTTP 400: context too long")
    assert len(server.seen) == 1
    assert pauses == []


def test_401_is_an_error_and_is_not_tried_again(serve: Callable[..., Server]) -> None:
    server = serve(lambda body, times: (401, {}, b"who are you"))
    done = ask(engine_for(server), "q")["q"]
    assert (done.status, done.error, len(server.seen)) == ("error", "HTTP 401: who are you", 1)


def test_a_slow_answer_is_a_timeout_row(serve: Callable[..., Server]) -> None:
    held = threading.Event()

    def slow(body: dict[str, Any], times: int) -> Reply:
        if "slow" in str(body):
            held.wait(5)
        return chat("fine")

    found = ask(engine_for(serve(slow), timeout_s=0.2), "slow", "quick")
    held.set()
    assert (found["slow"].status, found["slow"].error) == ("timeout", "no answer within 0.2 s")
    assert found["quick"].status == "ok"


def test_nobody_listening_is_an_error_row(serve: Callable[..., Server], pauses: list[float]) -> None:
    server = serve(lambda body, times: chat("x"))
    engine = engine_for(server)
    server.server.shutdown()
    server.server.server_close()
    done = ask(engine, "q")["q"]
    assert done.status == "error"
    assert done.error.startswith("gave up after 3 tries: ConnectError")


@pytest.mark.parametrize(
    "body",
    [b"", b"not json", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"message": {}}]}',
     b'{"choices": [{"message": null}]}', b'"text"', b"null", b"\xff\xfe"],
)  # fmt: skip
def test_200_with_anything_but_a_completion_is_an_error_row(serve: Callable[..., Server], body: bytes) -> None:
    server = serve(lambda asked, times: (200, {}, body))
    done = ask(engine_for(server), "q")["q"]
    assert done.status == "error"
    assert done.error.startswith("not a chat completion (")
    assert len(server.seen) == 1


def test_an_answer_without_text_is_empty(serve: Callable[..., Server]) -> None:
    reply = {"choices": [{"message": {"content": None}}]}
    server = serve(lambda body, times: (200, {}, json.dumps(reply).encode()))
    done = ask(engine_for(server), "q")["q"]
    assert (done.status, done.text, done.finish_reason, done.completion_tokens) == ("ok", "", "", 0)


@pytest.mark.parametrize("status", [400, 401, 500])
def test_the_key_is_in_no_error(serve: Callable[..., Server], pauses: list[float], status: int) -> None:
    """Some servers quote what they were sent; the row, and the table after it, must not."""
    server = serve(lambda body, times: (status, {}, f"bad header: Bearer {KEY}".encode()))
    done = ask(engine_for(server), "q")["q"]
    assert done.error
    assert KEY not in done.error


def test_a_reply_that_cannot_be_decoded_is_an_error_row(serve: Callable[..., Server], pauses: list[float]) -> None:
    server = serve(lambda body, times: (200, {"Content-Encoding": "gzip"}, b"not gzip"))
    assert ask(engine_for(server), "q")["q"].status == "error"


@pytest.mark.parametrize(
    "reply",
    [{"choices": [{"message": {"content": ["a"]}}]}, {"choices": [{"message": {"content": "a"}}], "usage": [1]}],
)
def test_fields_of_the_wrong_type_are_an_error_row(serve: Callable[..., Server], reply: dict[str, Any]) -> None:
    server = serve(lambda body, times: (200, {}, json.dumps(reply).encode()))
    assert ask(engine_for(server), "q")["q"].status == "error"


def test_the_pool_is_kept_full(serve: Callable[..., Server]) -> None:
    """Two at once with concurrency 2: more would ignore the setting, fewer would waste it."""
    lock, running, most = threading.Lock(), [0], [0]

    def counted(body: dict[str, Any], times: int) -> Reply:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1
        return chat("x")

    engine = engine_for(serve(counted))
    assert engine.width == 3
    ask(engine, *(f"q{i}" for i in range(12)))
    assert most[0] == 2
    assert engine.inflight == 0


def test_a_reply_that_came_and_cannot_be_read_is_told_apart(serve: Callable[..., Server], pauses: list[float]) -> None:
    """It was paid: whoever caches answers must not ask again."""
    server = serve(lambda body, times: (200, {}, b"") if "empty" in str(body) else (500, {}, b""))
    found = ask(engine_for(server), "empty", "down")
    assert (found["empty"].finish_reason, found["down"].finish_reason) == (endpoint.UNREADABLE, "")


def test_a_huge_reply_is_cut_off_and_is_an_error_row(serve: Callable[..., Server]) -> None:
    done = ask(engine_for(serve(lambda body, times: (200, {}, b" " * (9 * 2**20)))), "q")["q"]
    assert (done.status, done.finish_reason) == ("error", endpoint.UNREADABLE)
    assert done.error == "not a reply: got more than 8388608 bytes"


def test_a_count_of_null_is_none(serve: Callable[..., Server]) -> None:
    usage = {"prompt_tokens": None, "completion_tokens": 3}
    reply = {"choices": [{"message": {"content": "x"}}], "usage": usage}
    done = ask(engine_for(serve(lambda body, times: (200, {}, json.dumps(reply).encode()))), "q")["q"]
    assert (done.status, done.prompt_tokens, done.completion_tokens) == ("ok", 0, 3)


def test_the_key_is_in_no_answer(serve: Callable[..., Server]) -> None:
    done = ask(engine_for(serve(lambda body, times: chat(f"you sent {KEY}"))), "q")["q"]
    assert done.text == "you sent [key]"


def test_a_format_is_asked_for_until_the_server_refuses_it(serve: Callable[..., Server], pauses: list[float]) -> None:
    def answer(body: dict[str, Any], times: int) -> Reply:
        return (400, {}, b"unknown field response_format") if "response_format" in body else chat("x")

    server = serve(answer)
    settings = {"kind": "endpoint", "url": server.url, "model": "m", "concurrency": 1, "retries": 0}
    engine = Endpoint(EndpointEngine.model_validate(settings), {"type": "json_object"})
    assert {done.text for done in ask(engine, "a", "b").values()} == {"x"}
    assert [body.get("response_format") for body in server.seen] == [{"type": "json_object"}, None, None]


def test_another_400_is_not_blamed_on_the_format(serve: Callable[..., Server]) -> None:
    server = serve(lambda body, times: (400, {}, b"context too long"))
    engine = Endpoint(
        EndpointEngine.model_validate({"kind": "endpoint", "url": server.url, "model": "m"}), {"type": "json_object"}
    )
    assert ask(engine, "q")["q"].status == "invalid"
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3.0), ("1.5", 1.5), ("", 0.0), ("soon", 0.0), ("-4", 0.0), ("nan", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("Wed, 21 Oct 2015 07:28:00", 0.0),
    ],
)  # fmt: skip
def test_retry_after_is_a_number_or_a_date(header: str, seconds: float) -> None:
    assert endpoint._retry_after(header) == seconds


def test_retry_after_may_be_a_date_to_come() -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 58 <= endpoint._retry_after(in_a_minute) <= 60


def test_all_requests_wait_while_the_server_asks_for_it(serve: Callable[..., Server]) -> None:
    """One request is told to wait; the others must not knock meanwhile."""
    times_at: list[float] = []

    def answer(body: dict[str, Any], times: int) -> Reply:
        times_at.append(time.monotonic())
        return (429, {"Retry-After": "0.4"}, b"slow down") if len(times_at) == 1 else chat("x")

    found = ask(engine_for(serve(answer), concurrency=1), *(f"q{i}" for i in range(3)))
    assert {done.status for done in found.values()} == {"ok"}
    assert times_at[1] - times_at[0] >= 0.4


def test_a_server_that_asks_for_an_hour_is_not_asked_again(serve: Callable[..., Server], pauses: list[float]) -> None:
    server = serve(lambda body, times: (429, {"Retry-After": "3600"}, b"come back later"))
    done = ask(engine_for(server), "q")["q"]
    assert (done.status, done.error) == ("error", "HTTP 429: come back later (the server asks to wait 3600 s)")
    assert (len(server.seen), pauses) == (1, [])


def test_requests_per_minute_hold_over_all_tasks_and_engines(serve: Callable[..., Server]) -> None:
    """1200 a minute over two tasks are one in 0.1 s for each; so are two engines one after the other."""
    at: list[float] = []

    def answer(body: dict[str, Any], times: int) -> Reply:
        at.append(time.monotonic())
        return chat("x")

    server, started = serve(answer), time.monotonic()
    for _ in range(2):
        ask(engine_for(server, requests_per_minute=1200, devices=2, concurrency=4), "a", "b", "c")
    assert at[-1] - started >= 0.6
    assert len(at) == 6


def test_a_reply_that_trickles_in_is_a_timeout(serve: Callable[..., Server]) -> None:
    """A client's own limit is between two bytes; a server that sends one now and then would hold it for ever."""
    sent = threading.Event()

    server = serve(lambda body, times: chat("x"))
    handler = server.server.RequestHandlerClass

    def slowly(self: Any) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(50):
                self.wfile.write(b" ")
                self.wfile.flush()
                if sent.wait(0.05):
                    return

    handler.do_POST = slowly  # type: ignore[attr-defined]
    started = time.monotonic()
    done = ask(engine_for(server, timeout_s=0.3), "q")["q"]
    sent.set()
    assert (done.status, done.error) == ("timeout", "no answer within 0.3 s")
    assert time.monotonic() - started < 2


def test_a_closed_engine_gives_its_connections_back(serve: Callable[..., Server]) -> None:
    engine = engine_for(serve(lambda body, times: chat("x")))
    ask(engine, "q")
    engine.close()
    with pytest.raises(RuntimeError):
        engine.submit(request("again"))
