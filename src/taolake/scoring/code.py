"""The `python_tests` scorer: 1 if the answer's code passes its tests, 0 if not, None if it took too long.

Every answer gets a process of its own (`taolake.sandbox.harness`) without environment, network or other processes in
sight, in an empty folder that is gone afterwards, with limits on memory, processor time, file size and open files; it
may start threads and no process. What it prints is thrown away. Where the kernel allows no namespaces, a hook of the
interpreter guards files in their place, which is a fence and no wall; a score's detail says which (`walled`).

It is not a virtual machine: files that this user may read can be read, and a hole in the kernel is a hole here. Nor is
it proof against an answer that knows this harness (see there).
"""

import json
import math
import os
import secrets
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from taolake.config import PythonTestsScorer
from taolake.sandbox import command, environment
from taolake.scoring.extract import extract
from taolake.scoring.function import load_function
from taolake.types import Message, Score

MAX_CODE_CHARS = 100_000
_START_S = 30.0
_MAX_VERDICT_BYTES = 1 << 16


@dataclass(frozen=True)
class PythonTests:
    """The `python_tests` scorer.

    Raises:
        ValueError: the function that gives the tests does not import.
    """

    spec: PythonTestsScorer

    def __post_init__(self) -> None:
        load_function(self.spec.tests)

    def __call__(self, messages: Sequence[Message], answer: str) -> Score:
        """Take the code out of the answer and run it against the prompt's tests."""
        code = extract(answer, self.spec.extract)
        code = answer if code is None else code
        if len(code) > MAX_CODE_CHARS:
            error = f"got code of {len(code)} characters, wanted at most {MAX_CODE_CHARS}"
            return Score(None, "abstain", detail={"error": error})
        try:
            tests = load_function(self.spec.tests)(messages)
        except Exception as error:  # the user's function, on one prompt
            return Score(None, "error", detail={"error": f"{self.spec.tests}: {type(error).__name__}: {error}"[:500]})
        if not isinstance(tests, str) or not tests.strip():
            return Score(None, "abstain", detail={"error": f"{self.spec.tests} gave no tests for this prompt"})
        return run_tests(code, tests, timeout_s=self.spec.timeout_s, memory_mb=self.spec.memory_mb)


def run_tests(code: str, tests: str, *, timeout_s: float, memory_mb: int, isolate: bool = True) -> Score:
    """Run a program and its tests in a fresh process; `isolate=False` leaves the namespaces out."""
    nonce = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="taolake-", ignore_cleanup_errors=True) as folder:
        options = {"folder": folder, "memory_mb": memory_mb, "cpu_s": math.ceil(timeout_s) + 1, "isolate": isolate}
        process = subprocess.Popen(
            command("harness", options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
            cwd="/",
            bufsize=0,
            start_new_session=True,
        )
        try:
            return _score(process, {"code": code, "tests": tests, "nonce": nonce}, timeout_s)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()


def _score(process: "subprocess.Popen[bytes]", job: dict[str, str], timeout_s: float) -> Score:
    assert process.stdin and process.stdout
    left = memoryview(json.dumps(job).encode())
    with suppress(BrokenPipeError):
        while left:
            left = left[os.write(process.stdin.fileno(), left) :]
        process.stdin.close()
    try:
        started = _json(_line(process.stdout.fileno(), _START_S))
        if "walled" not in started:
            return Score(None, "error", detail={"error": f"the harness did not start (status {process.wait(5)})"})
        told = _json(_line(process.stdout.fileno(), timeout_s))
    except TimeoutError:
        return Score(None, "timeout", detail={"error": f"the tests took longer than {timeout_s:g} s"})
    seen = {"walled": started["walled"]}
    if told.pop("nonce", None) == job["nonce"]:
        return Score(float(not told["failed"]), detail=seen | told)
    try:
        status = process.wait(1)
    except subprocess.TimeoutExpired:  # it lives, and wrote something else where its verdict belongs
        return Score(0.0, detail=seen | {"error": "the program wrote what is no verdict"})
    if status == -signal.SIGKILL:
        return Score(None, "error", detail=seen | {"error": "the process was killed from outside"})
    if status == -signal.SIGXCPU:
        return Score(None, "timeout", detail=seen | {"error": "the tests took too much processor time"})
    return Score(0.0, detail=seen | {"error": f"the program ended before its tests did (status {status})"})


def _line(pipe: int, timeout_s: float) -> bytes:
    """Read one line; what the pipe held at its end, or at most the longest verdict, if that comes first."""
    ready, deadline, read = select.poll(), time.monotonic() + timeout_s, bytearray()
    ready.register(pipe, select.POLLIN)
    while not read.endswith(b"\n") and len(read) < _MAX_VERDICT_BYTES:
        if not ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        byte = os.read(pipe, 1)  # no further than the line: the next one has a deadline of its own
        if not byte:
            break
        read += byte
    return bytes(read)


def _json(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
