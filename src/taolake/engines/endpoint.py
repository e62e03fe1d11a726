"""Any OpenAI-compatible chat endpoint as an engine: Databricks Model Serving, a provider, `vllm serve`.

Requests run on a small thread pool; a 429, a 5xx or a broken connection is tried again with growing pauses, and what
still fails is an error row. Where the server says how long to wait, everyone waits. The key is read from the
environment on the executor and appears in no message. Not here: who is asked what, and what it costs (`stages`).
"""

import concurrent.futures as futures
import os
import random
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from taolake.config import EndpointEngine
from taolake.types import Completion, Request

if TYPE_CHECKING:
    import ssl

UNREADABLE = "unreadable"  # finish reason of a reply that came, and was paid, and is no completion
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
_LONGEST_PAUSE_S = 30.0
_LONGEST_WAIT_S = 300.0  # a server that asks for more is not asked again
_MOST_BYTES = 8 * 2**20  # of a reply; more would be a worker's memory
_REFUSES_FORMAT = re.compile("response_format|json_schema|structured|guided", re.IGNORECASE)


class Endpoint:
    """A pool of HTTP requests behind `submit` and `poll`.

    Args:
        spec: where to ask, and how often.
        response_format: asked for with every request, until the server refuses it (400 or 422); None asks for none.
    """

    def __init__(self, spec: EndpointEngine, response_format: Mapping[str, Any] | None = None) -> None:
        import httpx

        key = os.environ.get(spec.key_env, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._spec, self._key, self._format = spec, key, response_format
        limits = httpx.Limits(max_connections=spec.concurrency, max_keepalive_connections=spec.concurrency)
        self._client = httpx.Client(
            base_url=spec.url.rstrip("/") + "/", headers=headers, timeout=spec.timeout_s, limits=limits, verify=_tls()
        )
        self._pool = futures.ThreadPoolExecutor(spec.concurrency)
        self._pace = _Pace(spec.requests_per_minute, spec.devices)
        self._running: set[futures.Future[Completion]] = set()

    @property
    def inflight(self) -> int:
        """Requests not yet returned."""
        return len(self._running)

    @property
    def width(self) -> int:
        """One request per thread, and a few waiting."""
        return self._spec.concurrency + self._spec.concurrency // 4 + 1

    def submit(self, request: Request) -> None:
        """Hand a request to the pool."""
        self._running.add(self._pool.submit(self._ask, request))

    def poll(self) -> Sequence[Completion]:
        """Wait for the next answer, at most a second."""
        done, self._running = futures.wait(self._running, timeout=1.0, return_when=futures.FIRST_COMPLETED)
        return [future.result() for future in done]

    def close(self) -> None:
        """Give connections and threads back; requests still running are left to end."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _ask(self, request: Request) -> Completion:
        import httpx

        started, reason, wait = time.monotonic(), "", 0.0
        jitter = random.Random(request.seed)
        for attempt in range(self._spec.retries + 1):
            self._pace.wait(wait)
            wait = min(_LONGEST_PAUSE_S, 2**attempt) * jitter.uniform(0.5, 1)
            try:
                status, headers, text = self._post(request)
            except httpx.TimeoutException:
                return Completion(request.key, "timeout", error=f"no answer within {self._spec.timeout_s:g} s")
            except (httpx.DecodingError, OverflowError) as error:
                return Completion(request.key, "error", finish_reason=UNREADABLE, error=f"not a reply: {error}")
            except httpx.RequestError as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            if status == 200:
                return self._clean(_completion(request.key, text, time.monotonic() - started))
            reason = f"HTTP {status}: {text[:200]}"
            if status in (400, 422) and self._format and _REFUSES_FORMAT.search(text):
                self._format = None
                return self._ask(request)
            asked = _retry_after(headers.get("retry-after", ""))
            if status not in _AGAIN or asked > _LONGEST_WAIT_S:
                reason += f" (the server asks to wait {asked:g} s)" if status in _AGAIN else ""
                return self._clean(Completion(request.key, "invalid" if status == 400 else "error", error=reason))
            if asked:
                wait = asked
                self._pace.hold(asked)
        gave_up = f"gave up after {self._spec.retries + 1} tries: {reason}"
        return self._clean(Completion(request.key, "error", error=gave_up))

    def _post(self, request: Request) -> tuple[int, Mapping[str, str], str]:
        """Send a request: status, headers and text of the reply, within the time and the size that are allowed."""
        import httpx

        started, body = time.monotonic(), bytearray()
        with self._client.stream("POST", "chat/completions", json=self._body(request)) as reply:
            for piece in reply.iter_bytes():
                body += piece
                if len(body) > _MOST_BYTES:
                    raise OverflowError(f"got more than {_MOST_BYTES} bytes")
                if time.monotonic() - started > self._spec.timeout_s:  # the client's own limit is between two bytes
                    raise httpx.ReadTimeout("the reply did not end in time")
        return reply.status_code, reply.headers, body.decode("utf-8", errors="replace")

    def _clean(self, done: Completion) -> Completion:
        """Cut the key out of what came: some servers quote the request that they refuse."""
        if not self._key:
            return done
        return replace(done, text=done.text.replace(self._key, "[key]"), error=done.error.replace(self._key, "[key]"))

    def _body(self, request: Request) -> dict[str, Any]:
        s = request.sampling
        body = {
            "model": self._spec.model,
            "messages": list(request.messages),
            "max_tokens": s.max_tokens,
            "temperature": s.temperature,
            "seed": request.seed % 2**31,  # several providers take 32 bits only
        }
        # Asked for only where they cut something: not every provider knows them.
        cuts = {"top_p": (s.top_p, 1.0), "top_k": (s.top_k, 0), "min_p": (s.min_p, 0.0), "stop": (list(s.stop), [])}
        format_ = {"response_format": dict(self._format)} if self._format else {}
        return body | format_ | {name: value for name, (value, neutral) in cuts.items() if value != neutral}


class _Pace:
    """When the next request may leave: evenly spaced where there is a limit, later where the server says so."""

    def __init__(self, per_minute: float | None, tasks: int) -> None:
        self._gap = 60 * tasks / per_minute if per_minute else 0.0
        # A gap before the first as well: the task before this one may have just sent its last.
        self._next, self._lock = time.monotonic() + self._gap, threading.Lock()

    def wait(self, seconds: float) -> None:
        """Sleep for a request's own pause, then until its turn."""
        if seconds:
            time.sleep(seconds)
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._gap
        if turn > now:
            time.sleep(turn - now)

    def hold(self, seconds: float) -> None:
        """Let nobody leave for so long."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


def _retry_after(header: str) -> float:
    """Seconds to wait by a `Retry-After` header, a number or a date; 0 where it says neither."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # a date without a zone is not one that HTTP allows
        return 0.0


@cache
def _tls() -> "ssl.SSLContext":
    """The certificates of this machine, read once a process: an engine is made for every task."""
    import httpx

    return httpx.create_ssl_context()


def _completion(key: str, text: str, seconds: float) -> Completion:
    """Read a chat completion; an answer in another shape is an error row, not a crash."""
    import json

    try:
        reply = json.loads(text)
        choice = reply["choices"][0]
        text_, usage = choice["message"]["content"] or "", reply.get("usage") or {}
        if not isinstance(text_, str) or not isinstance(usage, dict):
            raise TypeError("content is not text, or usage is not an object")
        return Completion(
            key=key,
            status="ok",
            text=text_,
            finish_reason=choice.get("finish_reason") or "",
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
            seconds=seconds,
        )
    except (ValueError, KeyError, IndexError, TypeError) as error:
        why = f"not a chat completion ({type(error).__name__}): {text[:200]}"
        return Completion(key, "error", finish_reason=UNREADABLE, error=why)
