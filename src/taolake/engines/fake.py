"""A deterministic engine without a model: tests of everything around engines run on it.

An answer is drawn by the request's seed; a prompt that contains the poison text comes back as an error.
"""

import time
from collections.abc import Sequence

from taolake.config import FakeEngine
from taolake.types import Completion, Request


class Fake:
    """Answers in batches of its width, from a fixed list."""

    def __init__(self, spec: FakeEngine) -> None:
        self._spec = spec
        self._waiting: list[Request] = []

    @property
    def inflight(self) -> int:
        """Requests not yet answered."""
        return len(self._waiting)

    @property
    def width(self) -> int:
        """Requests to keep in flight."""
        return self._spec.width

    def submit(self, request: Request) -> None:
        """Queue a request."""
        self._waiting.append(request)

    def poll(self) -> Sequence[Completion]:
        """Answer everything that waits, last in first out: callers must not count on order."""
        time.sleep(self._spec.delay_s)
        done = [self._answer(request) for request in reversed(self._waiting)]
        self._waiting.clear()
        return done

    def _answer(self, request: Request) -> Completion:
        question = request.messages[-1]["content"]
        if self._spec.poison and self._spec.poison in question:
            return Completion(request.key, "error", error=f"poison: {self._spec.poison}")
        greedy = request.sampling.temperature == 0
        text = self._spec.answers[0 if greedy else request.seed % len(self._spec.answers)]
        ids = tuple(text.encode())
        return Completion(request.key, "ok", text, ids, "stop", prompt_tokens=len(question), completion_tokens=len(ids))
