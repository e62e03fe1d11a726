"""A generate run in processes of its own, whose processes can be killed by role; and the diary its engine writes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

import psutil

LIMIT_S = 240.0
_EXECUTOR = "CoarseGrainedExecutorBackend"
Identity = tuple[int, float]  # a process by number and start


class Run:
    """`taolake stage generate`; everything it starts is watched, so that what outlives it can be named.

    Args:
        config: project file.
        log: where it writes what it says.
        master: Spark master URL.
        module: run in place of the command line, with the same arguments.
    """

    def __init__(
        self,
        config: Path,
        log: Path,
        master: str = "local[2]",
        module: tuple[str, ...] = ("taolake",),
    ) -> None:
        self._log = log
        command = [sys.executable, "-m", *module, "stage", "generate", str(config)]
        environment = os.environ | {"TAOLAKE_MASTER": master}
        with log.open("ab") as handle:
            self.process = subprocess.Popen(
                command, stdout=handle, stderr=subprocess.STDOUT, start_new_session=True, env=environment
            )
        self._family: set[Identity] = set()
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._watcher.join()
        for pid in self.left(0.0):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def until(self, diary: Path, answers: int) -> bool:
        """Wait until the engine has answered so often; whether it did before the run ended."""
        deadline = time.monotonic() + LIMIT_S
        while len(lines(diary)) < answers:
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.01)
        return True

    def kill_worker(self, diary: Path) -> None:
        """The Python worker that answered last."""
        os.kill(int(lines(diary)[-1].split()[0]), signal.SIGKILL)

    def kill_largest_worker(self) -> None:
        """The Python worker with the most memory, which is the one that holds a real engine."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        workers = [p for p in family if "pyspark.daemon" in _command(p)]
        max(workers, key=lambda p: p.memory_info().rss).kill()

    def kill_executor(self) -> None:
        """The executors' JVMs."""
        executors = [p for p in psutil.Process(self.process.pid).children(recursive=True) if _EXECUTOR in _command(p)]
        assert executors, "no executor is running"
        for executor in executors:
            executor.kill()

    def kill_driver(self) -> None:
        """The driver, Python and JVM; what runs below them is left to end by itself."""
        driver = psutil.Process(self.process.pid)
        above = [p for p in driver.children(recursive=True) if "SparkSubmit" in _command(p)]
        for process in [driver, *above]:
            process.kill()
        self.process.wait()

    def finish(self) -> None:
        """Wait for a good end."""
        assert self.end() == 0, self.said()

    def end(self) -> int:
        """Wait for an end, and return its exit code."""
        try:
            return self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end in {LIMIT_S:g} s: {self.said()}") from None

    def left(self, patience_s: float = 15.0) -> list[int]:
        """Processes of this run that live on after it has ended."""
        deadline = time.monotonic() + patience_s
        while True:
            alive = [pid for pid, started in list(self._family) if _lives(pid, started)]
            if not alive or time.monotonic() > deadline:
                return alive
            time.sleep(0.05)

    def said(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-4000:]

    def _watch(self) -> None:
        try:
            top = psutil.Process(self.process.pid)
            while not self._stop.wait(0.05):
                self._family |= {(p.pid, p.create_time()) for p in [top, *top.children(recursive=True)]}
        except psutil.Error:  # it has ended
            return


def table(lake: str, name: str) -> list[dict[str, Any]]:
    """Rows of a table that was only appended to, by its log; another Spark beside those under test would slow them."""
    import pyarrow.parquet as pq

    folder = Path(lake, name)
    actions = [json.loads(line) for log in sorted(folder.glob("_delta_log/*.json")) for line in log.open()]
    assert not any("remove" in action for action in actions), "rows were rewritten"
    files = [folder / unquote(action["add"]["path"]) for action in actions if "add" in action]
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def lines(diary: Path) -> list[str]:
    """What the fake engine wrote: process and request of every answer, also of those that were lost."""
    return diary.read_text().splitlines() if diary.exists() else []


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _lives(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
