"""Programs and their tests: what passes, what fails and why, and what a hostile program can reach (nothing)."""

import contextlib
import os
import pickle
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from taolake.config import PythonTestsScorer
from taolake.scoring import build, version
from taolake.scoring.code import run_tests
from taolake.types import Message, Score

SQUARE = "def f(x):\n    return x * x\n"
TESTS = "assert f(2) == 4\n\ndef test_three():\n    assert f(3) == 9\n"
CLASS = """
import unittest

class TestSquare(unittest.TestCase):
    def setUp(self):
        self.x = 3

    def test_value(self):
        self.assertEqual(f(self.x), 9)

    def test_text(self):
        with self.assertRaises(TypeError):
            f("a")
"""


def run(code: str, tests: str = TESTS, isolate: bool = True, timeout_s: float = 10.0) -> Score:
    return run_tests(code, tests, timeout_s=timeout_s, memory_mb=256, isolate=isolate)


@pytest.mark.parametrize(
    ("code", "tests", "value", "count", "failed", "error"),
    [
        (SQUARE, TESTS, 1.0, 2, [], ""),
        (SQUARE, "def test_a():\n    assert f(0) == 0\n\ndef test_b():\n    assert f(1) == 2", 0.0, 3, ["test_b"],
         "line 5 of the tests: AssertionError"),
        (SQUARE, CLASS, 1.0, 3, [], ""),
        ("def f(x):\n    return 9", CLASS, 0.0, 3, ["TestSquare.test_text"],
         "line 12 of the tests: AssertionError: TypeError not raised"),
        (SQUARE, "from answer import f\nassert f(5) == 25", 1.0, 1, [], ""),
        ("def f(x):\n    return x", TESTS, 0.0, 1, ["the top level"], "line 1 of the tests: AssertionError"),
        ("def f(x):\n    return 1 / 0", "assert f(2)", 0.0, 1, ["the top level"],
         "line 1 of the tests: ZeroDivisionError: division by zero"),
        ("def f(", TESTS, 0.0, 0, ["the program itself"], "SyntaxError: '(' was never closed"),
        ("", TESTS, 0.0, 1, ["the top level"], "line 1 of the tests: NameError: name 'f' is not defined"),
        (SQUARE, "assert (", 0.0, 1, ["the top level"], "SyntaxError: '(' was never closed"),
        (SQUARE + "if __name__ == '__main__':\n    input()", TESTS, 1.0, 2, [], ""),
        ("import io, contextlib\ndef f(x):\n    with contextlib.redirect_stdout(io.StringIO()) as out:\n"
         "        print(x * x)\n    return int(out.getvalue())", TESTS, 1.0, 2, [], ""),
        ("open('notes.txt', 'w').write('x')\nassert open('notes.txt').read() == 'x'\n" + SQUARE, TESTS, 1.0, 2, [], ""),
    ],
)  # fmt: skip
def test_verdict(code: str, tests: str, value: float, count: int, failed: list[str], error: str) -> None:
    score = run(code, tests)
    assert (score.value, score.status) == (value, "ok")
    assert {k: score.detail[k] for k in ("tests", "failed", "error")} == {
        "tests": count,
        "failed": failed,
        "error": error,
    }


WRONG, SLOW = (0.0, "ok"), (None, "timeout")
EVIL = "/var/tmp/taolake_evil"
ESCAPES = [
    ("leaves before its tests", "import sys; sys.exit(0)", WRONG, "SystemExit: 0"),
    ("leaves at once", "import os; os._exit(0)", WRONG, "ended before"),
    ("leaves in a test", "def f(x):\n    raise SystemExit(0)", WRONG, "SystemExit: 0"),
    ("leaves at once in a test", "import os\ndef f(x):\n    os._exit(0)", WRONG, "ended before"),
    ("prints a verdict", "import os\nfor fd in range(1, 64):\n  try: os.write(fd, b'{\"failed\": []}\\n')\n"
     "  except OSError: pass\nos._exit(0)", WRONG, "ended before"),
    ("floods every file", "import os\nwhile True:\n  for fd in range(1, 64):\n    try: os.write(fd, b'x' * 65536)\n"
     "    except OSError: pass", None, "."),
    ("rebinds builtins", "import builtins\nbuiltins.exec = builtins.compile = lambda *a, **k: None", WRONG,
     "NameError"),
    ("rebinds unittest", "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\ndef f(x): return 0\n",
     WRONG, "AssertionError"),
    ("sets a trace", "import sys\ndef jump(frame, *rest):\n    return jump\nsys.settrace(jump)\ndef f(x): return 0",
     WRONG, "AssertionError"),
    ("loops", "while True: pass", SLOW, "longer than"),
    ("sleeps", "import time; time.sleep(100)", SLOW, "longer than"),
    ("waits for input", "input()", WRONG, "EOFError"),
    ("has an event loop", "import asyncio\nasync def g(x): return x * x\ndef f(x): return asyncio.run(g(x))",
     (1.0, "ok"), ""),
    ("leaves a thread behind", "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()\n"
     + SQUARE, (1.0, "ok"), ""),
    ("takes memory", "x = bytearray(10 ** 10)", WRONG, "MemoryError"),
    ("takes memory slowly", "x = []\nwhile True: x.append(bytearray(10 ** 7))", WRONG, "MemoryError"),
    ("recurses", "def f(x): return f(x)", WRONG, "RecursionError"),
    ("crashes", "import ctypes; ctypes.string_at(0)", WRONG, "ended before|not allowed"),
    ("prints much", "for _ in range(2000): print('x' * 10000)\n" + SQUARE, (1.0, "ok"), ""),
    ("writes outside", f"open({EVIL!r}, 'w').write('x')", WRONG, "Read-only|not allowed"),
    ("removes a file", "import os; os.remove({victim!r})", WRONG, "Read-only|not allowed"),
    ("writes a huge file", "open('big', 'wb').write(b'x' * (20 << 20))", WRONG, "File too large"),
    ("reads the parent's environment", "import os\nprint(open('/proc/%d/environ' % os.getppid()).read())", WRONG,
     "No such file|not allowed"),
    ("reads that of all", "import glob\nfor p in ['/proc/self/environ', *glob.glob('/proc/[0-9]*/environ')]:\n"
     "    assert 'hunter2' not in open(p).read()\nassert False, 'clean'", WRONG, "No such file|not allowed"),
    ("has an environment", "import os\nassert not {'PATH', 'HOME', 'TAOLAKE_TEST_SECRET'} & set(os.environ)\n"
     + SQUARE, (1.0, "ok"), ""),
    ("kills its parent", "import os\nos.kill(os.getppid(), 9)\nos.kill({parent}, 9)", WRONG,
     "not permitted|not allowed"),
    ("kills all", "import os; os.kill(-1, 9)", WRONG, "not permitted|not allowed"),
    ("connects", "import socket; socket.create_connection(('127.0.0.1', {port}), 1)", WRONG,
     "not permitted|not allowed"),
    ("asks for names", "import socket; socket.getaddrinfo('localhost', 80, socket.AF_INET)\n"
     "socket.create_connection(('localhost', {port}), 1)", WRONG, "."),
    ("starts a shell", "import subprocess; subprocess.run(['sh', '-c', 'echo x > " + EVIL + "'], check=True)", WRONG,
     "not permitted|not allowed"),
    ("forks", "import os; os.fork()", WRONG, "not permitted|not allowed"),
    ("mounts", "import ctypes\nassert ctypes.CDLL(None).umount2(b'/proc', 2) == 0", WRONG,
     "AssertionError|not allowed"),
]  # fmt: skip


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.01)
        yield listening.getsockname()[1]
        with pytest.raises(TimeoutError):
            listening.accept()


@pytest.mark.parametrize("isolate", [True, False], ids=["walls", "hook"])
@pytest.mark.parametrize(("code", "verdict", "reason"), [e[1:] for e in ESCAPES], ids=[e[0] for e in ESCAPES])
def test_hostile_program(
    code: str, verdict: tuple[float | None, str] | None, reason: str, isolate: bool, port: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("TAOLAKE_TEST_SECRET", "hunter2")
    victim = tmp_path / "victim"
    victim.write_text("here")
    known = {"{port}": str(port), "{victim!r}": repr(str(victim)), "{parent}": str(os.getpid())}
    for name, value in known.items():
        code = code.replace(name, value)
    limit_s = 0.5 if verdict in (SLOW, None) else 10.0
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))  # others have folders in the machine's own
    started = time.monotonic()
    tests = TESTS + CLASS if "unittest" in code else TESTS
    score = run(code, tests, isolate, limit_s)
    assert time.monotonic() - started < limit_s + 5
    assert (score.value, score.status) in ([verdict] if verdict else [WRONG, SLOW]), score
    assert re.search(reason, str(score.detail["error"])), score.detail
    assert victim.read_text() == "here"
    assert not Path(EVIL).exists()
    assert not list((tmp_path / "t").iterdir())


def test_fork_bomb_starts_no_process() -> None:
    def running() -> int:
        found = 0
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it ended between the listing and the look
                found += b"taolake.sandbox.harness" in path.read_bytes()
        return found

    bomb = "import os\nfor _ in range(100):\n    try: os.fork()\n    except OSError: pass\nprint(os.listdir('/proc'))\n"
    assert run(bomb + SQUARE).value == 1.0
    assert (
        run("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", timeout_s=0.3).status == "timeout"
    )
    deadline = time.monotonic() + 5  # the kernel takes a moment to end what the wall enclosed
    while running() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running() == 0


def cases_of(messages: list[Message]) -> str | None:
    """A user's function: the tests of a prompt."""
    asked = messages[-1]["content"]
    if asked == "boom":
        raise KeyError(asked)
    return {"square": TESTS, "nothing": "", "none": None}[asked]


def spec(**options: object) -> PythonTestsScorer:
    return PythonTestsScorer.model_validate(
        {"kind": "python_tests", "name": "passes", "tests": f"{__name__}:cases_of", **options}
    )


@pytest.mark.parametrize(
    ("asked", "answer", "value", "status"),
    [
        ("square", f"Here:\n```python\n{SQUARE}```\nDone.", 1.0, "ok"),
        ("square", SQUARE, 1.0, "ok"),
        ("square", "I cannot.", 0.0, "ok"),
        ("square", "```\ndef f(x): return x\n```", 0.0, "ok"),
        ("square", "#" * 200_000, None, "abstain"),
        ("nothing", SQUARE, None, "abstain"),
        ("none", SQUARE, None, "abstain"),
        ("boom", SQUARE, None, "error"),
    ],
)
def test_scorer(asked: str, answer: str, value: float | None, status: str) -> None:
    score = build(spec())([{"role": "user", "content": asked}], answer)
    assert (score.value, score.status) == (value, status)


def test_scorer_is_refused_pickled_and_versioned() -> None:
    with pytest.raises(ValueError, match="imports"):
        build(spec(tests="no_such_module_here:f"))
    rule = build(spec())
    assert pickle.loads(pickle.dumps(rule)) == rule
    assert len(version(spec())) == 12 and version(spec()) != version(spec(timeout_s=9))
