"""A deterministic engine without a model: tests of everything around engines run on it.

An answer is drawn by the request's seed; a prompt that contains the poison text comes back as an error, and `faults`
name the texts that hurt the engine itself.
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence

from taolake.config import FakeEngine
from taolake.types import Completion, Request


class Fake:
    """Answers in batches of its width, from a fixed list."""

    def __init__(self, spec: FakeEngine) -> None:
        self._spec = spec
        self._waiting: list[tuple[Request, float]] = []  # with the time of submission
        self._child = subprocess.Popen(["sleep", "3600"]) if spec.child else None

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
        self._waiting.append((request, time.monotonic()))

    def poll(self) -> Sequence[Completion]:
        """Answer everything that waits, last in first out: callers must not count on order."""
        time.sleep(self._spec.delay_s)
        late = time.monotonic() - (self._spec.request_timeout_s or float("inf"))
        waiting, self._waiting = self._waiting, []
        done = []
        for request, since in reversed(waiting):
            if self._suffers(request) != "hang":
                done.append(self._answer(request))
            elif since < late:
                done.append(
                    Completion(request.key, "timeout", error=f"no answer in {self._spec.request_timeout_s:g} s")
                )
            else:
                self._waiting.append((request, since))
        self._note(done)
        return done

    def abort(self, keys: Sequence[str]) -> None:
        """Give up requests; nothing comes back of them."""
        self._waiting = [each for each in self._waiting if each[0].key not in keys]

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def _note(self, done: Sequence[Completion]) -> None:
        if self._spec.diary and done:
            lines = "".join(f"{os.getpid()} {completion.key}\n" for completion in done)
            with open(
                self._spec.diary, "ab", buffering=0
            ) as diary:  # one write: what several processes add stays whole
                diary.write(lines.encode())

    def _suffers(self, request: Request) -> str:
        """Do what the prompt does to the engine; only a prompt that hangs comes back from here with its fault."""
        question = request.messages[-1]["content"]
        fault = next((kind for text, kind in self._spec.faults.items() if text in question), "")
        match fault:
            case "raise":
                raise RuntimeError("the device is lost")
            case "stall":
                time.sleep(3600)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        return fault

    def _answer(self, request: Request) -> Completion:
        question = request.messages[-1]["content"]
        if self._spec.poison and self._spec.poison in question:
            return Completion(request.key, "error", error=f"poison: {self._spec.poison}")
        if self._spec.context is not None and len(question) > self._spec.context:
            reason = f"{len(question)} characters exceed the context of {self._spec.context}"
            return Completion(request.key, "invalid", error=reason, prompt_tokens=len(question))
        greedy = request.sampling.temperature == 0
        text = self._spec.answers[0 if greedy else request.seed % len(self._spec.answers)]
        ids = tuple(text.encode())
        return Completion(request.key, "ok", text, ids, "stop", prompt_tokens=len(question), completion_tokens=len(ids))
