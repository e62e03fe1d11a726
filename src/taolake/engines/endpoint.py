"""Any OpenAI-compatible chat endpoint as an engine: Databricks Model Serving, a provider, `vllm serve`.

Requests run on a small thread pool; a 429, a 5xx or a broken connection is tried again with growing pauses, and what
still fails is an error row. The key is read from the environment on the executor and appears in no message.
"""

import concurrent.futures as futures
import os
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from taolake.config import EndpointEngine
from taolake.types import Completion, Request

_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
_LONGEST_PAUSE_S = 30.0


class Endpoint:
    """A pool of HTTP requests behind `submit` and `poll`."""

    def __init__(self, spec: EndpointEngine) -> None:
        import httpx

        key = os.environ.get(spec.key_env, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._spec, self._key = spec, key
        limits = httpx.Limits(max_connections=spec.concurrency, max_keepalive_connections=spec.concurrency)
        self._client = httpx.Client(
            base_url=spec.url.rstrip("/") + "/", headers=headers, timeout=spec.timeout_s, limits=limits
        )
        self._pool = futures.ThreadPoolExecutor(spec.concurrency)
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

    def _ask(self, request: Request) -> Completion:
        import httpx

        started, reason, wait = time.monotonic(), "", 0.0
        jitter = random.Random(request.seed)
        for attempt in range(self._spec.retries + 1):
            if attempt:
                time.sleep(wait)
            wait = min(_LONGEST_PAUSE_S, 2**attempt) * jitter.uniform(0.5, 1)
            try:
                reply = self._client.post("chat/completions", json=self._body(request))
            except httpx.TimeoutException:
                return Completion(request.key, "timeout", error=f"no answer within {self._spec.timeout_s:g} s")
            except httpx.RequestError as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            if reply.status_code == 200:
                return self._clean(_completion(request.key, reply.text, time.monotonic() - started))
            reason = f"HTTP {reply.status_code}: {reply.text[:200]}"
            if reply.status_code not in _AGAIN:
                status: Literal["invalid", "error"] = "invalid" if reply.status_code == 400 else "error"
                return self._clean(Completion(request.key, status, error=reason))
            asked = reply.headers.get("retry-after", "")
            wait = min(_LONGEST_PAUSE_S, float(asked)) if asked.isdigit() else wait
        gave_up = f"gave up after {self._spec.retries + 1} tries: {reason}"
        return self._clean(Completion(request.key, "error", error=gave_up))

    def _clean(self, done: Completion) -> Completion:
        """Cut the key out of an error: some servers quote the request that they refuse."""
        return replace(done, error=done.error.replace(self._key, "[key]")) if self._key and done.error else done

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
        return body | {name: value for name, (value, neutral) in cuts.items() if value != neutral}


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
            prompt_tokens=int(usage.get("prompt_tokens", 0)),
            completion_tokens=int(usage.get("completion_tokens", 0)),
            seconds=seconds,
        )
    except (ValueError, KeyError, IndexError, TypeError) as error:
        return Completion(key, "error", error=f"not a chat completion ({type(error).__name__}): {text[:200]}")
