"""How far a run is, told while it runs: a file that another process can read without Spark.

Executors write beats, one small JSON file a task attempt, below `<work>/progress/<chunk>`; the driver adds them up,
moves its bar and writes `<work>/progress/live-*.json`. A lost beat only makes the numbers jump. Not here: what a stage
did when it is over (`rounds`).
"""

import contextlib
import json
import os
import shutil
import threading
import time
import uuid
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from taolake.stages.round import Progress

_EVERY_S = 0.5
_RATE_OVER_S = 60.0  # rates are of the last minute: loading an engine says nothing about how long the rest takes
_FORGOTTEN_S = 3600.0
SILENT_S = 15.0


@dataclass(frozen=True)
class Beats:
    """What the tasks of a chunk have said so far.

    `done` counts rows, the furthest attempt of every task; `tokens` and the seconds count what every attempt's engine
    did, also for rows that were lost with it. `full_s` are the seconds in which it had all the requests it can take.
    """

    done: int = 0
    errors: int = 0
    tokens: int = 0
    seconds: float = 0.0
    full_s: float = 0.0


def read_beats(folder: Path) -> Beats:
    """Add up the beats in a folder; files are named `<task>` or `<task>.<attempt>`."""
    done: dict[str, int] = {}
    errors: dict[str, int] = {}
    tokens, seconds, full = 0, 0.0, 0.0
    for file in folder.glob("*"):
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # a file half written is read again half a second later
            continue
        task = file.name.partition(".")[0]
        done[task] = max(done.get(task, 0), said.get("done", 0))
        errors[task] = max(errors.get(task, 0), said.get("errors", 0))
        tokens += said.get("tokens", 0)
        seconds += said.get("seconds", 0.0)
        full += said.get("full_s", 0.0)
    return Beats(sum(done.values()), sum(errors.values()), tokens, seconds, full)


@dataclass
class State:
    """What `taolake status` shows of a run. Times are seconds since 1970; rates are of the last minute."""

    label: str
    total: int
    done: int = 0
    tokens: int = 0
    errors: int = 0
    rows_per_s: float = 0.0
    tokens_per_s: float = 0.0
    started_at: float = field(default_factory=time.time)
    updated_at: float = field(default_factory=time.time)


class Live:
    """While inside, keeps the bar and the file up to date."""

    def __init__(self, work: Path, label: str, total: int, bar: "Progress") -> None:
        self._state = State(label, total)
        self._file = work / "progress" / f"live-{uuid.uuid4().hex[:12]}.json"
        self._bar = bar
        self._running: set[Path] = set()
        self._past: deque[tuple[float, int, int]] = deque([(time.monotonic(), 0, 0)])
        self._finished = Beats()
        self._lock, self._stop = threading.Lock(), threading.Event()

    def __enter__(self) -> Self:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        _forget(self._file.parent)
        self._write()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._file.unlink(missing_ok=True)

    def begin(self, folder: Path) -> None:
        """Count what the tasks say in `folder` from now on."""
        with self._lock:
            self._running.add(folder)

    def end(self, folder: Path, rows: int = 0, tokens: int = 0, errors: int = 0) -> Beats:
        """Count what came out instead of what the tasks said, and remove the folder; returns its last beats."""
        with self._lock:
            self._running.discard(folder)
            done = self._finished
            self._finished = Beats(done.done + rows, done.errors + errors, done.tokens + tokens)
        last = read_beats(folder)
        shutil.rmtree(folder, ignore_errors=True)
        return last

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self._write()
        self._write()

    def _write(self) -> None:
        with self._lock:
            parts = [self._finished, *map(read_beats, self._running)]
        state, now = self._state, time.monotonic()
        state.done, state.errors, state.tokens = (
            sum(getattr(part, name) for part in parts) for name in ("done", "errors", "tokens")
        )
        while len(self._past) > 1 and now - self._past[1][0] > _RATE_OVER_S:
            self._past.popleft()
        then, done, tokens = self._past[0]
        if now > then:
            state.rows_per_s = max(0.0, (state.done - done) / (now - then))
            state.tokens_per_s = max(0.0, (state.tokens - tokens) / (now - then))
        self._past.append((now, state.done, state.tokens))
        state.updated_at = time.time()
        self._bar.to(state.done)
        half = self._file.with_suffix(".part")
        half.write_text(json.dumps(asdict(state)), encoding="utf-8")
        os.replace(half, self._file)


def running(work: Path) -> list[State]:
    """What runs on a work folder now, or did when its driver was killed; oldest first. Needs no Spark."""
    found = []
    for file in (work / "progress").glob("live-*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError):  # it ended between the listing and the look
            found.append(State(**json.loads(file.read_text(encoding="utf-8"))))
    return sorted(found, key=lambda state: state.started_at)


def sentence(state: State, now: float) -> str:
    """One line on a run: how far, how fast, how long still, what went wrong."""
    parts = [
        f"{state.done:,} of {state.total:,} cells ({state.done / max(1, state.total):.0%})",
        f"{state.tokens_per_s:,.0f} tokens/s",
        f"{state.rows_per_s:,.1f} cells/s",
        f"{state.errors:,} errors",
        f"{duration(now - state.started_at)} so far",
    ]
    silent = now - state.updated_at
    if silent > SILENT_S:
        return f"{state.label}: {', '.join(parts)}; no sign of life for {duration(silent)}: killed? Run it again"
    if state.rows_per_s > 0:
        parts.append(f"about {duration((state.total - state.done) / state.rows_per_s)} left")
    return f"{state.label}: {', '.join(parts)}"


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(59.4), duration(61), duration(7261)
    ('59 s', '1 min 1 s', '2 h 1 min')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _forget(folder: Path) -> None:
    """Remove what drivers killed long ago left here, of `live-*.json` alone."""
    for file in folder.glob("live-*"):
        with contextlib.suppress(OSError):  # another driver removed it first
            if time.time() - file.stat().st_mtime > _FORGOTTEN_S:
                file.unlink()
