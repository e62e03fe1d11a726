"""A round: one project, one number, its lake; what every stage is given.

Also here: what a stage gives back (`Outcome`), its progress bar, and the memory meter. Which stages there are, and in
what order they run, is said in `taolake.stages`.
"""

import contextlib
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from taolake import lake
from taolake.beside import every
from taolake.config import Project
from taolake.ids import content_hash, file_hash
from taolake.lake import Lake
from taolake.stages.cap import Cap
from taolake.types import Policy

_POLL_S = 0.5


@dataclass(frozen=True)
class Outcome:
    """What a stage did: rows written, tokens spent, and facts for the `rounds` table."""

    rows: int
    tokens: int = 0
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """A stage's row in the `rounds` table."""

    stage: str
    state: str
    fingerprint: str
    seconds: float
    detail: dict[str, Any]
    started_at: datetime | None = None
    tokens: int = 0


class Round:
    """One trip from prompts to the registry.

    Args:
        lake: where the tables are.
        project: the checked project file.
        number: rounds count from 1; round n starts from the base model of the project file.
    """

    def __init__(self, lake_: Lake, project: Project, number: int = 1) -> None:
        self.lake = lake_
        self.project = project
        self.number = number
        self.cap = Cap(project.cost, 0.0)

    @cached_property
    def base(self) -> Policy:
        """The policy the round starts from."""
        return policy(self.project.model.path, self.project.model.revision)

    @cached_property
    def base_folder(self) -> str:
        """Folder of the base model on this machine, for training; a hub model is downloaded at its revision."""
        path = self.project.model.path
        if Path(path).is_dir():
            return path
        from huggingface_hub import snapshot_download

        return str(snapshot_download(path, revision=self.project.model.revision))

    @property
    def work(self) -> Path:
        """Folder for this round's checkpoints and adapters."""
        return Path(self.project.work) / f"round-{self.number}"

    def records(self) -> dict[str, Record]:
        """The round's rows in `rounds`, by stage."""
        rows = self.lake.rows(lake.ROUNDS, round=self.number)
        return {
            r["stage"]: Record(
                r["stage"],
                r["state"],
                r["fingerprint"],
                r["seconds"] or 0.0,
                json.loads(r["detail"]),
                r["started_at"],
                r["tokens"] or 0,
            )
            for r in rows
        }

    def done(self, stage: str, current: bool = True) -> Record:
        """A finished stage's row.

        Args:
            stage: its name.
            current: whether it must have been done with the project as it is now; a report tells what was done.

        Raises:
            RuntimeError: the stage has not run, or not with this config; the message says how to run it.
        """
        from taolake.stages import fingerprints

        record = self.records().get(stage)
        state = "never started" if record is None else record.state
        if current and state == "done" and record and record.fingerprint != fingerprints(self.project)[stage]:
            state = "done for another config"
        if record is None or state != "done":
            raise RuntimeError(f"stage {stage!r} of round {self.number} is {state}; run `taolake stage {stage}` first")
        return record

    @property
    def tuned(self) -> Policy:
        """The policy that `train` made."""
        detail = self.done("train").detail
        return Policy(detail["policy"], detail["model"], detail["revision"], detail["adapter"])

    def progress(self, label: str, total: int) -> "Progress":
        """A bar over `total` things, on standard error."""
        return Progress(label, total)

    @contextlib.contextmanager
    def training_bar(self, label: str) -> Iterator[Callable[[str], None]]:
        """A bar fed by a trainer's own lines, `PROGRESS <phase> <done> <total>`; other lines are in its log file."""
        bars: dict[str, Progress] = {}

        def on_line(line: str) -> None:
            self.cap.check()
            words = line.split()
            if len(words) == 4 and words[0] == "PROGRESS":
                bar = bars.get(words[1])
                if bar is None:
                    bar = bars[words[1]] = Progress(f"{label} {words[1]}", int(words[3]))
                bar.to(int(words[2]))

        try:
            yield on_line
        finally:
            for bar in bars.values():
                bar.close()

    def beats(self, chunk: str) -> Path:
        """An empty folder in which the tasks of a chunk say how far they are."""
        folder = Path(self.project.work) / "progress" / chunk
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    @contextlib.contextmanager
    def engine_workers(self) -> Iterator[None]:
        """Give the plans made inside their own pool of Python workers, so that engines outlive other stages' jobs.

        Spark keeps one pool per worker environment (`SparkEnv.PythonWorkersKey`); Spark Connect has no such handle, and
        there engines share the pool.
        """
        from pyspark.sql import SparkSession

        if not isinstance(self.lake.spark, SparkSession) or not hasattr(self.lake.spark, "_sc"):
            yield
            return
        environment = self.lake.spark.sparkContext.environment
        environment["TAOLAKE_WORKERS"] = "engine"
        try:
            yield
        finally:
            del environment["TAOLAKE_WORKERS"]


def policy(model: str, revision: str | None = None, adapter: str | None = None) -> Policy:
    """Identify a policy by content: folders by their bytes, hub models by name and revision."""
    base = file_hash(Path(model)) if Path(model).is_dir() else content_hash("hub", model, revision)
    mine = content_hash("policy", base, file_hash(Path(adapter)) if adapter else None)
    return Policy(mine, model, revision, adapter)


class Progress:
    """A bar that can also follow the beat files of a running chunk."""

    def __init__(self, label: str, total: int) -> None:
        from tqdm import tqdm

        quiet = not sys.stderr.isatty()
        self._bar = tqdm(
            total=total, desc=label, unit="", dynamic_ncols=True, mininterval=5.0 if quiet else 0.2, disable=total == 0
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar on the screen as it stands."""
        self._bar.close()

    def to(self, done: int) -> None:
        """Move the bar to an absolute position."""
        self._bar.update(max(0, done - int(self._bar.n)))

    def add(self, more: int) -> None:
        """Move the bar on."""
        self._bar.update(more)

    @contextlib.contextmanager
    def follow(self, folder: Path) -> Iterator[None]:
        """While inside, add up what the tasks say in `folder`; afterwards the folder is gone."""
        start = int(self._bar.n)
        try:
            with every(_POLL_S, lambda: self.to(start + _sum_beats(folder))):
                yield
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _sum_beats(folder: Path) -> int:
    total = 0
    for file in folder.glob("*"):
        with contextlib.suppress(OSError, ValueError):  # a file half written is read again half a second later
            total += json.loads(file.read_text())["done"]
    return total


class Meter:
    """Wall time, and the largest resident memory of this process and everything below it, while inside."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.peak_rss = 0
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.seconds = time.monotonic() - self._started

    def _watch(self) -> None:
        import psutil

        me = psutil.Process()
        while True:
            total = 0
            for process in [me, *me.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):  # it ended between the listing and the look
                    total += process.memory_info().rss
            self.peak_rss = max(self.peak_rss, total)
            if self._stop.wait(_POLL_S):
                return
