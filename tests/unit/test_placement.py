"""Placement: which device, how many threads; and that one device never has two engines or a dead one's children."""

import importlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import taolake
from taolake.config import EndpointEngine, FakeEngine, VllmEngine
from taolake.engines import placement, reaper

A, B, MIG = "GPU-aaaa", "GPU-bbbb", "MIG-cccc"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (None, None),
        ("", ()),
        ("0", ("0",)),
        ("2, 3", ("2", "3")),
        (f"{A},{MIG}", (A, MIG)),
        ("1,-1,2", ("1",)),
        ("NoDevFiles", ()),
        ("1,1,2", ("1",)),
    ],
)
def test_visible_is_read_as_cuda_reads_it(said: str | None, shown: tuple[str, ...] | None) -> None:
    assert placement.visible({} if said is None else {"CUDA_VISIBLE_DEVICES": said}) == shown


@pytest.mark.parametrize(
    ("addresses", "shown", "present", "chosen"),
    [
        ([], None, [], []),  # a CPU
        ([], None, ["0", "1"], ["0", "1"]),  # local mode
        ([], ["3"], ["0", "1", "2", "3"], ["3"]),
        ([], [], ["0"], []),  # hidden on purpose
        (["1"], None, ["0", "1"], ["1"]),
        (["1"], ["0", "1"], ["0", "1"], ["1"]),
        (["1"], ["5"], ["0"], ["5"]),  # a plugin remapped it already
        (["1"], [A, B], ["0", "1"], [B]),  # numbers into what a container shows
        ([B], [A, B], ["0", "1"], [B]),
        (["0"], ["2", "3"], ["0"], ["2"]),
        (["0", "1"], ["4", "5"], ["0"], ["4", "5"]),
        (["0", "1"], ["4", "5", "6"], ["0"], ["4", "5"]),
    ],
)
def test_choose(addresses: list[str], shown: list[str] | None, present: list[str], chosen: list[str]) -> None:
    assert placement.choose(addresses, shown, present) == tuple(chosen)


@pytest.mark.parametrize(("address", "shown"), [("7", ["0", "1"]), (A, [B, MIG]), ("0", [])])
def test_a_contradiction_is_said(address: str, shown: list[str]) -> None:
    with pytest.raises(ValueError, match=r"Spark assigned GPU .* shows"):
        placement.choose([address], shown, ["0"])


@pytest.mark.parametrize(
    ("names", "partition", "group", "wanted"),
    [
        ("0", 5, 1, "0"),
        ("0123", 0, 1, "0123"),
        ("0123", 6, 1, "2301"),
        ("0123", 1, 2, "2301"),
        ("0123", 2, 2, "0123"),
        ("01234", 1, 2, "2301"),  # the odd one out is left alone
    ],
)
def test_rotated(names: str, partition: int, group: int, wanted: str) -> None:
    assert placement.rotated(tuple(names), partition, group) == tuple(wanted)


def test_too_few_devices_for_one_engine() -> None:
    with pytest.raises(ValueError, match="got 1 devices, wanted 2 for one engine"):
        placement.rotated(("0",), 0, 2)
    assert VllmEngine(options={"tensor_parallel_size": 2}).tensor_parallel == 2


@pytest.mark.parametrize(("cores", "engines", "each"), [(8, 2, 4), (2, 1, 2), (2, 3, 1), (1, 1, 1), (7, 2, 3)])
def test_threads(cores: int, engines: int, each: int) -> None:
    assert placement.threads(cores, engines) == each


@pytest.fixture(autouse=True)
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Device files of this test alone."""
    monkeypatch.setattr(reaper, "folder", lambda: tmp_path)
    monkeypatch.setattr(reaper, "_own", {})
    monkeypatch.setattr(reaper, "_busy", set())
    yield tmp_path
    for descriptor in reaper._own.values():
        os.close(descriptor)


@pytest.fixture
def one_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    """All processes of the test are workers of one executor."""
    monkeypatch.setattr(reaper, "executor", lambda: 1)


def started(run: Callable[[], None], ready: Path) -> int:
    """A forked process that runs it, then sleeps; returns when `ready` is there."""
    pid = os.fork()
    if pid == 0:
        try:
            reaper._own.clear()
            run()
            time.sleep(60)
        finally:
            os._exit(1)
    deadline = time.monotonic() + 20
    while not ready.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_free_device_is_taken_and_kept(devices: Path) -> None:
    with reaper.holding(["gpu-0", "gpu-1"]) as held:
        assert held == ("gpu-0",)
    assert reaper._state("gpu-0") == 0, "the engine stays, and is nobody's business but this process's"
    with reaper.holding(["gpu-1", "gpu-0"]) as held:
        assert held == ("gpu-0",), "the process goes back to the device its engine is on"
    with reaper.holding(["gpu-2", "gpu-3"], group=2) as held:
        assert held == ("gpu-2", "gpu-3")


def test_one_process_may_hold_a_device_twice() -> None:
    with reaper.holding(["gpu-0"]), reaper.holding(["gpu-0"]) as held:
        assert held == ("gpu-0",)


def test_another_application_is_refused(devices: Path) -> None:
    def hold() -> None:
        with reaper.holding(["gpu-0"]):
            (devices / "ready").touch()
            time.sleep(60)

    other = started(hold, devices / "ready")
    try:
        with (
            pytest.raises(RuntimeError, match=f"gpu-0 is held by process {other} of another application"),
            reaper.holding(["gpu-0"]),
        ):
            pass
        with reaper.holding(["gpu-0", "gpu-1"]) as held:
            assert held == ("gpu-1",), "a free one is preferred"
    finally:
        kill(other)
    with reaper.holding(["gpu-0"]) as held:
        assert held == ("gpu-0",), "the lock of a dead process is free"


@pytest.mark.usefixtures("one_executor")
def test_a_busy_neighbour_is_waited_for_and_an_idle_one_ended(devices: Path) -> None:
    def hold_a_while() -> None:
        with reaper.holding(["cpu-0"]):
            (devices / "ready").touch()
            time.sleep(0.5)
            (devices / "worked").touch()  # in here: once the device is free, this process may be ended at any moment
        time.sleep(60)

    other = started(hold_a_while, devices / "ready")
    began = time.monotonic()
    with reaper.holding(["cpu-0"]):
        assert (devices / "worked").exists() and time.monotonic() - began > 0.3
        assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == -signal.SIGKILL


def test_children_of_a_dead_owner_are_ended_at_the_next_start(devices: Path) -> None:
    def spawn() -> None:
        with reaper.holding(["gpu-0"]):
            child = subprocess.Popen(["sleep", "60"])
            reaper.note_children()
            (devices / "child").write_text(str(child.pid))
            (devices / "ready").touch()
            time.sleep(60)

    owner = started(spawn, devices / "ready")
    child = int((devices / "child").read_text())
    assert reaper.reap() == 0, "its owner lives"
    kill(owner)
    assert psutil.pid_exists(child)
    with reaper.holding(["gpu-5"]):  # any device: a crashed application may never ask for the same one
        pass
    deadline = time.monotonic() + 5
    while psutil.pid_exists(child) and time.monotonic() < deadline:
        if psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.01)
    else:
        assert not psutil.pid_exists(child)
    assert not (devices / "gpu-0.own").exists()


def test_a_number_that_came_again_is_nobodys_child(devices: Path) -> None:
    innocent = subprocess.Popen(["sleep", "60"])
    try:
        stale = {"pid": 1, "started": 0.0, "executor": 1, "children": [[innocent.pid, 12.5]]}
        (devices / "gpu-9.own").write_text(json.dumps(stale))
        assert reaper.reap() == 0
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


def test_engines_without_a_device_hold_none(devices: Path) -> None:
    spec = EndpointEngine(kind="endpoint", url="http://x/v1", model="m")
    with placement.device(spec) as held:
        assert held == ()
    with placement.device(FakeEngine(kind="fake", devices=2)) as held:
        assert held == (f"cpu-{os.getpid()}-0",)


def test_a_worker_ends_with_its_parent(tmp_path: Path) -> None:
    """The grandchild asks for it, its parent is killed, and it is gone."""

    def parent() -> None:
        if os.fork() == 0:
            reaper.die_with_parent()
            (tmp_path / "pid").write_text(str(os.getpid()))
            (tmp_path / "ready").touch()
            time.sleep(60)
            os._exit(0)

    above = started(parent, tmp_path / "ready")
    grandchild = int((tmp_path / "pid").read_text())
    kill(above)
    deadline = time.monotonic() + 5
    while psutil.pid_exists(grandchild) and psutil.Process(grandchild).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("given", "policy", "rounds"),
    [
        ({}, "PASSIVE", "5000"),
        ({"GOMP_SPINCOUNT": "7"}, "PASSIVE", "7"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "PASSIVE", None),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE", None),
    ],
)
def test_waiting_threads_spin_shortly_unless_the_user_says_how(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], policy: str, rounds: str | None
) -> None:
    monkeypatch.setattr(os, "environ", dict(given))
    importlib.reload(taolake)
    assert (os.environ["OMP_WAIT_POLICY"], os.environ.get("GOMP_SPINCOUNT")) == (policy, rounds)
