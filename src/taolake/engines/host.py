"""An engine in a process of its own, one per device, that the tasks of an executor share over a socket.

For executors with several GPUs: Spark may give a worker another GPU with every task, and the engine in a worker cannot
follow. A host outlives workers and tasks; it ends with its executor, or when nobody has asked it anything for a while.
Two tasks on one GPU share its engine, so that the head of one fills the tail of the other. Messages are JSON: nothing
is unpickled. Not here: which device, and whether a host is wanted (`placement`).

    python -m taolake.engines.host SOCKET NAMES IDLE_S     (started by `connect`)
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from taolake.config import EngineSpec, Model
from taolake.engines import reaper
from taolake.engines.watchdog import Watchdog
from taolake.ids import content_hash
from taolake.types import Completion, Engine, Policy, Request, Sampling

IDLE_S = 900.0  # a host without tasks keeps its device for so long: chunks and stages follow each other faster
_START_S = 60.0  # until its socket is there; the model is loaded later
_WAIT_S = 0.1  # a poll without an answer returns after this
_LEAVE_S = 2.0  # until a task that has ended, or was killed, is known to have left
_OWNER_S = 0.5  # how often a host looks whether its executor lives
_BUSY = {"error": "another task of this executor uses the device with another model or other settings"}


class Hosted:
    """The host's engine as a task sees it; dies (`RuntimeError`) when the host does."""

    def __init__(self, connection: Connection, width: int, why: Path) -> None:
        self._connection, self._why = connection, why
        self._width, self._inflight = width, 0
        self._new: list[dict[str, Any]] = []
        self._last: Any = None

    @property
    def inflight(self) -> int:
        """Requests accepted and not yet returned."""
        return self._inflight

    @property
    def width(self) -> int:
        """Requests to keep in flight; another task on the same device keeps as many."""
        return self._width

    def submit(self, request: Request) -> None:
        """Send it along with the next poll; siblings send their prompt once."""
        same, self._last = request.messages is self._last, request.messages
        self._new.append({**asdict(request), "messages": None if same else request.messages})
        self._inflight += 1

    def poll(self) -> Sequence[Completion]:
        """What finished since the last poll; waits a tenth of a second for something."""
        new, self._new = self._new, []
        done = [_completion(row) for row in _ask(self._connection, {"submit": new}, self._why)["done"]]
        self._inflight -= len(done)
        return done


@contextlib.contextmanager
def connect(
    names: Sequence[str], shown: str | None, spec: EngineSpec, model: Model, policy: Policy
) -> Iterator[Engine]:
    """An engine on these devices for the length of a task; its host is started when there is none.

    Args:
        names: the devices' names, as `reaper` locks them.
        shown: what CUDA_VISIBLE_DEVICES must say there; None leaves it alone.
        spec: the engine.
        model: limits.
        policy: who answers.

    Raises:
        RuntimeError: the host did not start, or its engine could not be built; the end of its log is in the message.
    """
    path = reaper.folder() / f"host-{reaper.executor()}-{content_hash(list(names))[:8]}"
    why = path.with_suffix(".why")
    asked = {"spec": spec.model_dump(mode="json"), "model": model.model_dump(mode="json"), "policy": asdict(policy)}
    with contextlib.ExitStack() as stack:
        with reaper.alone(path.with_suffix(".lock")):
            connection, said = _reach(path), None
            if connection is not None:
                with contextlib.suppress(RuntimeError):  # it was about to leave, or is dying: there will be another
                    said = _ask(stack.enter_context(connection), asked, why)
            if connection is None or said is None:
                connection = stack.enter_context(_start(path, names, shown))
                said = _ask(connection, asked, why)
        if "error" in said:
            raise RuntimeError(f"the engine of {', '.join(names)} could not be built: {said['error']}")
        yield Hosted(connection, said["width"], why)


def _reach(path: Path) -> Connection | None:
    with contextlib.suppress(OSError):
        return Client(str(path), "AF_UNIX")
    return None


def _start(path: Path, names: Sequence[str], shown: str | None) -> Connection:
    """Start a host in a session of its own, so that it outlives this worker, and wait for its socket."""
    for old in (path, path.with_suffix(".why")):
        old.unlink(missing_ok=True)
    environment = os.environ | {reaper.EXECUTOR: str(reaper.executor()), "PYTHONPATH": os.pathsep.join(sys.path)}
    if shown is not None:
        environment["CUDA_VISIBLE_DEVICES"] = shown
    log = path.with_suffix(".log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "taolake.engines.host", str(path), json.dumps(list(names)), str(IDLE_S)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, env=environment,
        )  # fmt: skip
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        if connection := _reach(path):
            return connection
        time.sleep(0.05)
    process.kill()
    raise RuntimeError(f"the engine's host did not start; the end of {log}:\n{log.read_text(errors='replace')[-2000:]}")


def _ask(connection: Connection, message: dict[str, Any], why: Path) -> dict[str, Any]:
    try:
        connection.send_bytes(json.dumps(message).encode())
        return dict(json.loads(connection.recv_bytes()))
    except (EOFError, OSError):
        reason = why.read_text() if why.exists() else "the process ended without a word"
        raise RuntimeError(f"the engine's host has ended: {reason}") from None


class _Host:
    """One engine, and the tasks that use it. The engine belongs to the main thread; a task has a thread of its own."""

    def __init__(self, names: Sequence[str], idle_s: float, why: Path) -> None:
        self._names, self._idle_s, self._why = names, idle_s, why
        self._jobs: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._done: dict[int, list[Completion]] = {}  # by task
        self._engine: Any = None
        self._of: str = ""  # what the engine was built for
        self._dog: Watchdog | None = None
        self._device: contextlib.ExitStack = contextlib.ExitStack()

    def run(self) -> None:
        """Do what tasks ask, step by step; returns after `idle_s` without a task."""
        while True:
            with self._changed:
                while not self._jobs and not (self._engine and self._engine.inflight):
                    if not self._changed.wait(self._idle_s) and not self._done:
                        return
                jobs, self._jobs = self._jobs, deque()
            for job in jobs:
                job()
            if self._engine and self._engine.inflight and self._dog:
                finished = self._dog.watch(self._engine.poll)
                with self._changed:
                    for each in finished:
                        task, _, key = each.key.partition("|")
                        if int(task) in self._done:
                            self._done[int(task)].append(replace(each, key=key))
                    self._changed.notify_all()

    def talk(self, task: int, connection: Connection) -> None:
        """One task, from its first word to its last."""
        asked: set[str] = set()
        try:
            with contextlib.suppress(EOFError, OSError):
                hello = json.loads(connection.recv_bytes())
                deadline = time.monotonic() + _LEAVE_S
                while (said := self._in_engine(lambda: self._open(task, hello))) == _BUSY:
                    if time.monotonic() > deadline:
                        break
                    time.sleep(_WAIT_S)
                connection.send_bytes(json.dumps(said).encode())
                messages: Any = ()
                while "error" not in said:
                    new = json.loads(connection.recv_bytes())["submit"]
                    requests = []
                    for row in new:
                        messages = messages if row["messages"] is None else tuple(row["messages"])
                        requests.append(_request(row, task, messages))
                    asked.update(request.key for request in requests)
                    done = self._step(task, requests)
                    asked.difference_update(f"{task}|{each.key}" for each in done)
                    connection.send_bytes(json.dumps({"done": [asdict(each) for each in done]}).encode())
        finally:
            connection.close()
            self._in_engine(lambda: self._close(task, asked))

    def _step(self, task: int, requests: Sequence[Request]) -> list[Completion]:
        """Hand requests to the engine, and take what is done; waits a little for something."""

        def submit() -> None:
            for request in requests:
                self._engine.submit(request)

        with self._changed:
            if requests:
                self._jobs.append(submit)
                self._changed.notify_all()
            if not self._done[task]:
                self._changed.wait_for(lambda: self._done[task], _WAIT_S)
            done, self._done[task] = self._done[task], []
        return done

    def _in_engine(self, job: Callable[[], Any]) -> Any:
        """Have the main thread do something, and wait for what it returns."""
        result, ready = [], threading.Event()

        def do() -> None:
            result.append(job())
            ready.set()

        with self._changed:
            self._jobs.append(do)
            self._changed.notify_all()
        ready.wait()
        return result[0]

    def _open(self, task: int, hello: dict[str, Any]) -> dict[str, Any]:
        """Build the engine, or keep the one there is; one that other tasks use is not replaced under them."""
        from taolake import engines

        spec: Any = TypeAdapter(EngineSpec).validate_python(hello["spec"])
        wanted = json.dumps(hello, sort_keys=True)
        if self._done and wanted != self._of:
            return _BUSY
        if not self._done:
            self._device.enter_context(reaper.holding(self._names, len(self._names)))
        try:
            engine = engines.build(spec, Model(**hello["model"]), Policy(**hello["policy"]))
        except Exception as error:  # whatever loading a model raises is the task's to hear
            self._device.close()
            return {"error": f"{type(error).__name__}: {error}"}
        if wanted != self._of:
            if self._dog:
                self._dog.close()
            self._dog = Watchdog(spec.stall_s, self._died)
        self._engine, self._of, self._done[task] = engine, wanted, []
        return {"width": engine.width}

    def _died(self, reason: str) -> None:
        self._why.write_text(reason)

    def _close(self, task: int, left: set[str]) -> None:
        """What a task leaves unanswered is given up; with the last task the device is free for other workers."""
        if task not in self._done:
            return
        del self._done[task]
        if left and self._engine:
            self._engine.abort(sorted(left))
        if not self._done:
            self._device.close()


def _request(row: dict[str, Any], task: int, messages: Any) -> Request:
    sampling = Sampling(**{**row["sampling"], "stop": tuple(row["sampling"]["stop"])})
    return Request(f"{task}|{row['key']}", messages, sampling, row["seed"])


def _completion(row: dict[str, Any]) -> Completion:
    return Completion(**{**row, "token_ids": tuple(row["token_ids"])})


def _end_with(executor: int, started: float) -> None:
    """End this process and all it has started when the executor is gone."""
    while reaper.identity(executor) == (executor, started):
        time.sleep(_OWNER_S)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def main() -> None:
    """Serve until the executor ends or nobody has asked for long."""
    path, names, idle_s = Path(sys.argv[1]), json.loads(sys.argv[2]), float(sys.argv[3])
    executor = reaper.identity(reaper.executor())
    if executor is None:
        return
    threading.Thread(target=_end_with, args=executor, daemon=True).start()
    host = _Host(names, idle_s, path.with_suffix(".why"))
    with Listener(str(path), "AF_UNIX", backlog=16) as listener:

        def accept() -> None:
            task = 0
            while True:
                connection, task = listener.accept(), task + 1
                threading.Thread(target=host.talk, args=(task, connection), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            host.run()
        except Exception as error:  # the engine's death: tasks are told by the socket's end, and read why
            path.with_suffix(".why").write_text(f"{type(error).__name__}: {error}")
            traceback.print_exc()
        path.unlink(missing_ok=True)
        os._exit(0)  # the threads of tasks wait for an engine that is no more


if __name__ == "__main__":
    main()
