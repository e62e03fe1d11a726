"""One engine per device, asserted by locked files, and no process left behind by a dead one.

Every device has two files in the machine's temporary folder. `use` is locked while a task runs on it: a second task of
the same executor waits its turn. `own` is locked for the life of the process that holds the engine, and names the
processes that engine started; the lock of a dead process is free, and then those are ended. Not here: which device a
task gets (`placement`).
"""

import contextlib
import ctypes
import fcntl
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

EXECUTOR = "TAOLAKE_EXECUTOR"  # in the environment of an engine's host: whose it is
_LEAVE_S = 10.0  # a killed process may take this long to give its lock back
_own: dict[str, int] = {}  # devices whose engine this process holds, with the descriptor of the lock
_busy: set[str] = set()  # devices this process is using now
log = logging.getLogger(__name__)


def folder() -> Path:
    """Where the device files are: one folder per user of the machine."""
    path = Path(tempfile.gettempdir(), f"taolake-{os.getuid()}", "devices")
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


@contextlib.contextmanager
def holding(devices: Sequence[str], group: int = 1) -> Iterator[tuple[str, ...]]:
    """Hold `group` of the devices for a task; the one whose engine this process has, else a free one, else the first.

    Args:
        devices: names, in the order of preference; its length is a multiple of `group`.
        group: devices one engine spreads over, neighbours in the list.

    Raises:
        RuntimeError: another application holds the device.
    """
    groups = [tuple(devices[i : i + group]) for i in range(0, len(devices), group)]
    groups.sort(key=lambda names: (not all(n in _own for n in names), max(_state(n) for n in names)))
    with contextlib.ExitStack() as stack:
        for name in sorted(groups[0]):
            stack.enter_context(_using(name))
            _become_owner(name)
        reap()
        try:
            yield groups[0]
        finally:
            note_children()


def note_children() -> None:
    """Write down the processes that this one has started, so that they can be ended should it die."""
    import psutil

    children = psutil.Process().children(recursive=True)
    about = {**_me(), "children": [found for child in children if (found := identity(child.pid))]}
    for descriptor in _own.values():
        _write(descriptor, about)


def reap() -> int:
    """End what dead owners of any device left behind; returns how many processes that were."""
    ended = 0
    for path in folder().glob("*.own"):
        descriptor = None if path.stem in _own else lock(path)
        if descriptor is None:
            continue
        for pid, started in _read(descriptor).get("children", []):
            if identity(pid) == (pid, started):
                log.warning("process %d was left behind by the engine of %s; it is ended", pid, path.stem)
                os.kill(pid, signal.SIGKILL)
                ended += 1
        _remove(path, descriptor)
    return ended


def die_with_parent() -> None:
    """Let the kernel end this process when its parent ends: a Spark worker outlives neither daemon nor executor."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG, <sys/prctl.h>
        if os.getppid() != parent:  # it ended before it was asked
            os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other processes out for as long as this lasts."""
    descriptor = lock(path, wait=True)
    assert descriptor is not None  # a waiting lock returns when it has it
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _using(name: str) -> Iterator[None]:
    if name in _busy:  # a lock is per descriptor: the process would wait for itself
        yield
        return
    path = folder() / f"{name}.use"
    descriptor = lock(path)
    if descriptor is None:
        _refuse_strangers(name)
        log.warning("device %s is busy with another task of this executor; this one waits", name)
        descriptor = lock(path, wait=True)
    assert descriptor is not None  # a waiting lock returns when it has it
    _busy.add(name)
    try:
        yield
    finally:
        _busy.discard(name)
        _remove(path, descriptor)


def _become_owner(name: str) -> None:
    """Take the lock of the engine; an idle worker of this executor that still has it is ended, which Spark forgives."""
    if name in _own:
        return
    path = folder() / f"{name}.own"
    deadline = time.monotonic() + _LEAVE_S
    while (descriptor := lock(path)) is None:
        _refuse_strangers(name)
        owner = _owner(name)
        if owner and _lives(owner):
            log.warning("an idle worker (process %d) holds the engine of device %s; it is ended", owner["pid"], name)
            os.kill(owner["pid"], signal.SIGKILL)
        if time.monotonic() > deadline:
            raise RuntimeError(f"device {name} is locked ({path}) and its owner does not end; end process {owner}")
        time.sleep(0.05)
    for pid, started in _read(descriptor).get("children", []):
        if identity(pid) == (pid, started):
            os.kill(pid, signal.SIGKILL)
    _own[name] = descriptor
    _write(descriptor, _me())


def _refuse_strangers(name: str) -> None:
    """One engine per device: another application's is neither waited for nor ended."""
    owner = _owner(name)
    if owner and _lives(owner) and owner["executor"] != executor():
        raise RuntimeError(
            f"device {name} is held by process {owner['pid']} of another application, wanted it free: one engine per "
            "device; stop that one, or show this one other devices (CUDA_VISIBLE_DEVICES, spark.task.resource.gpu)"
        )


def executor() -> int:
    """The process that this Spark worker's daemon belongs to; a process that is no worker stands for itself."""
    import psutil
    from pyspark import TaskContext

    if TaskContext.get() is None:
        return int(os.environ.get(EXECUTOR, os.getpid()))
    daemon = psutil.Process().parent()
    above = daemon.parent() if daemon else None
    return int(above.pid) if above else 0


def _me() -> dict[str, Any]:
    pid, started = identity(os.getpid()) or (os.getpid(), 0.0)
    return {"pid": pid, "started": started, "executor": executor(), "children": []}


def identity(pid: int) -> tuple[int, float] | None:
    """A process by number and start, since numbers come again; None when there is none, or only its zombie."""
    import psutil

    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return pid, process.create_time()
    return None


def _lives(owner: dict[str, Any]) -> bool:
    return identity(owner["pid"]) == (owner["pid"], owner["started"])


def _state(name: str) -> int:
    """What another process does with a device, at this moment: 0 nothing, 1 an idle engine is on it, 2 it works."""
    for state, kind in ((2, "use"), (1, "own")):
        if kind == "own" and name in _own:
            continue
        descriptor = lock(folder() / f"{name}.{kind}")
        if descriptor is None:
            return state
        if kind == "use":
            _remove(folder() / f"{name}.use", descriptor)
        else:
            os.close(descriptor)  # what its dead owner wrote is still to be read
    return 0


def _owner(name: str) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):  # gone, or being written
        return dict(json.loads((folder() / f"{name}.own").read_bytes()))
    return {}


def lock(path: Path, wait: bool = False) -> int | None:
    """Lock a file; None when another process has it. The lock is the process's: it ends with it, however it ends."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        os.close(descriptor)  # removed while this one waited


def _remove(path: Path, descriptor: int) -> None:
    """Give a lock back, and its file with it; while it is locked, so that whoever waits sees another file there."""
    path.unlink(missing_ok=True)
    os.close(descriptor)


def _read(descriptor: int) -> dict[str, Any]:
    with contextlib.suppress(ValueError):  # never written
        return dict(json.loads(os.pread(descriptor, 1 << 20, 0)))
    return {}


def _write(descriptor: int, about: dict[str, Any]) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(about).encode(), 0)
