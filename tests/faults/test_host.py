"""An engine's host: shared by tasks, outlives them, ends with its executor, and says why it died."""

import contextlib
import itertools
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from taolake import engines
from taolake.config import FakeEngine, Model
from taolake.engines import host, placement, reaper, window
from taolake.types import Completion, Engine, Policy, Request, Sampling

MODEL, POLICY = Model(path="m"), Policy("p", "m")


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a short name: that of a socket may have some hundred characters."""
    tmp_path_factory.getbasetemp()  # made here at the latest: it must not lie in this folder
    with tempfile.TemporaryDirectory(prefix="h", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def executor(short: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that stands for the executor, and a folder of its own for device files and sockets."""
    monkeypatch.setenv("TMPDIR", str(short))
    monkeypatch.setattr("tempfile.tempdir", None)
    with subprocess.Popen(["sleep", "600"]) as process:
        monkeypatch.setenv(reaper.EXECUTOR, str(process.pid))
        yield process
        process.kill()
        process.wait()
        deadline = time.monotonic() + 10
        while (left := hosts(short)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left == [], "a host outlived its executor"


def hosts(folder: Path) -> list[int]:
    """Processes that serve a socket below a folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "taolake.engines.host" in process.cmdline() and str(folder) in process.cmdline()[-3]:
                found.append(process.pid)
    return found


def engine(**changes: Any) -> Any:
    return engines.hold(FakeEngine(kind="fake", host=True, **changes), MODEL, POLICY)


def requests(count: int, question: str = "question", first: int = 0) -> list[Request]:
    """Four samples a prompt."""
    made = []
    for prompt in range(count):
        messages = ({"role": "user", "content": f"{question} {first + prompt}"},)
        made += [Request(f"{first + prompt}-{i}", messages, Sampling(8), 7 * prompt + i) for i in range(4)]
    return made


def answers(found: Iterator[Completion]) -> dict[str, str]:
    return {each.key: each.text for each in found}


def test_answers_are_those_of_an_engine_in_the_process() -> None:
    asked = requests(20)
    with engine() as shared:
        hosted = answers(window.run(shared, asked))
    with engines.hold(FakeEngine(kind="fake"), MODEL, POLICY) as own:
        assert hosted == answers(window.run(own, asked))
    assert len(hosted) == 80


def test_one_host_for_tasks_one_after_another_and_at_once(short: Path, tmp_path: Path) -> None:
    """Two tasks ask under the same names, and each gets its own answers."""
    diary = tmp_path / "diary"
    ours = {"delay_s": 0.01, "diary": str(diary)}
    with engine(**ours) as first, engine(**ours) as second:
        each = [window.run(first, requests(10, "one")), window.run(second, requests(10, "two"))]
        for done in itertools.chain.from_iterable(itertools.zip_longest(*each)):
            assert done is None or done.status == "ok"
        assert first.inflight == second.inflight == 0
    with engine(**ours) as third:
        assert len(answers(window.run(third, requests(3)))) == 12
    processes = {line.split()[0] for line in diary.read_text().splitlines()}
    assert processes == {str(pid) for pid in hosts(short)}
    assert len(processes) == 1


def test_each_device_has_a_host_of_its_own(short: Path) -> None:
    spec = FakeEngine(kind="fake", host=True)
    with host.connect(["a"], None, spec, MODEL, POLICY), host.connect(["b"], None, spec, MODEL, POLICY):
        assert len(hosts(short)) == 2


def test_what_a_lost_task_asked_is_given_up(short: Path) -> None:
    """It asked for what never comes; the next task finds an engine with room."""
    ours = {"faults": {"never": "hang"}, "delay_s": 0.01}
    with engine(**ours) as lost:
        for request in requests(4, "never"):
            lost.submit(request)
        assert lost.poll() == []
        assert lost.inflight == 16
    with engine(**ours) as next_one:
        assert len(answers(window.run(next_one, requests(4, "mind")))) == 16
    assert len(hosts(short)) == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raise", "RuntimeError: the device is lost"),
        ("stall", "no engine step ended in 0.5 s"),
        ("kill", "the process ended without a word"),
    ],
)
def test_a_dead_engine_says_why_and_the_next_task_gets_another(short: Path, fault: str, reason: str) -> None:
    ours = {"faults": {"bad": fault}, "stall_s": 0.5, "child": True}
    with engine(**ours) as dying:
        before = hosts(short)
        children = psutil.Process(before[0]).children(recursive=True)
        assert children
        with pytest.raises(RuntimeError, match=f"the engine's host has ended: {reason}"):
            list(window.run(dying, requests(2, "bad")))
    with engine(**ours) as living:
        assert len(answers(window.run(living, requests(2)))) == 8
        assert hosts(short) != before
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


def test_another_model_waits_for_no_task_and_replaces_none_in_use(short: Path) -> None:
    with engine(answers=("one",)) as first:
        with (
            pytest.raises(RuntimeError, match="another task of this executor uses the device"),
            engine(answers=("two",)),
        ):
            raise AssertionError
        assert set(answers(window.run(first, requests(1))).values()) == {"one"}
    with engine(answers=("two",)) as second:
        assert set(answers(window.run(second, requests(1))).values()) == {"two"}
    assert len(hosts(short)) == 1


def test_another_engine_has_its_own_limit_of_patience() -> None:
    with engine(answers=("one",), stall_s=60.0) as first:
        assert len(answers(window.run(first, requests(1)))) == 4
    with (
        engine(answers=("two",), stall_s=0.5, faults={"bad": "stall"}) as second,
        pytest.raises(RuntimeError, match=r"no engine step ended in 0\.5 s"),
    ):
        list(window.run(second, requests(1, "bad")))


def test_it_ends_with_its_executor_and_takes_its_children_along(
    executor: "subprocess.Popen[bytes]", short: Path
) -> None:
    with engine(child=True):
        (pid,) = hosts(short)
        children = psutil.Process(pid).children(recursive=True)
        executor.kill()
        executor.wait()
        _, left = psutil.wait_procs([psutil.Process(pid), *children], timeout=5)
    assert not left


def test_an_idle_host_leaves(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "IDLE_S", 0.3)
    with engine() as first:
        time.sleep(0.6)
        assert len(answers(window.run(first, requests(1)))) == 4, "it left under a task"
    deadline = time.monotonic() + 5
    while hosts(short) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert hosts(short) == []


def test_a_worker_that_needs_the_device_ends_an_idle_host(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reward models run in the worker: they take the device over, but never from a task that uses it."""
    monkeypatch.setattr(reaper, "_own", {})
    spec = FakeEngine(kind="fake")
    with engine():
        (pid,) = hosts(short)
        (name,) = placement.place(spec).names
        assert reaper.lock(reaper.folder() / f"{name}.use") is None, "a task is on the device"
    with placement.device(spec):
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    for descriptor in reaper._own.values():
        os.close(descriptor)


def test_a_host_that_cannot_start_shows_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(RuntimeError, match="the engine's host did not start"), engine():
        raise AssertionError


def test_an_engine_that_cannot_be_built_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/none")
    with pytest.raises(RuntimeError, match="could not be built: FileNotFoundError"), engine(child=True):
        raise AssertionError


def test_messages_travel_once_for_siblings() -> None:
    sent: list[Any] = []

    class Wire:
        def send_bytes(self, data: bytes) -> None:
            sent.append(data)

        def recv_bytes(self) -> bytes:
            return b'{"done": []}'

    task: Engine = host.Hosted(Wire(), 8, Path("why"))  # type: ignore[arg-type]
    for request in requests(2):
        task.submit(request)
    task.poll()
    assert sent[0].count(b"question") == 2
