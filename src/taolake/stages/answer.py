"""Answer: what an executor does with the cells of a chunk; requests in a window over one engine, candidates out.

Not here: which cells there are, and committing what comes out (`generate`); the engines (`taolake.engines`).
"""

import contextlib
import itertools
import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taolake import ids
from taolake.config import Project, Strategy
from taolake.engines import window
from taolake.engines.watchdog import Watchdog
from taolake.scoring.extract import extract, variant
from taolake.stages import journal
from taolake.stages.fanout import Row
from taolake.stages.suspects import History, companies
from taolake.types import Completion, Engine, Policy, Request, Sampling

GREEDY = "greedy"
_BEAT_S = 1.0


@dataclass(frozen=True)
class Cells:
    """What one strategy owes each prompt of a split: samples 0 to `count` - 1."""

    split: str
    strategy: Strategy
    count: int

    @property
    def stream(self) -> str:
        """A: the policy's own distribution; G: its single best guess; B: exploration."""
        return "G" if self.strategy.name == GREEDY else "A" if self.strategy.on_policy else "B"


@dataclass(frozen=True)
class Work:
    """What an executor needs to answer a chunk: plain values only, so it travels; the engine is built there."""

    project: Project
    policy: Policy
    cells: dict[str, Cells]
    chunk: str
    beats: str

    def answer(self, cells: Iterator[Row]) -> Iterator[Row]:
        """Cells in, candidates out, in the order they finish; what an earlier attempt answered is not asked again."""
        from pyspark import TaskContext

        from taolake import engines

        context, spec = TaskContext.get(), self.project.engine
        partition, attempt = (context.partitionId(), context.attemptNumber()) if context else (0, 0)
        folder = journal.folder_of(self.project, self.policy.id, self.chunk) / f"{partition:05d}"
        with journal.opened(folder, attempt, spec.journal_s) as book:
            task = _Task(self, book, Path(self.beats, f"{partition}.{attempt}"))
            fresh = task.fresh(cells)
            first = next(fresh, None)
            if first is None and not task.suspects:
                yield from task.ready
                return
            with engines.hold(spec, self.project.model, self.policy) as engine:
                requests = itertools.chain([] if first is None else [first], fresh)
                yield from task.rows(engine, requests)

    def _requests(self, cells: Iterable[Row], waiting: dict[str, Row]) -> Iterator[Request]:
        last: tuple[Any, Any] = (None, ())
        for cell in cells:
            strategy = self.cells[cell["strategy"]].strategy
            if last[0] != (cell["prompt_id"], strategy.id):
                last = ((cell["prompt_id"], strategy.id), tuple(variant(cell["messages"], strategy)))
            name = ids.candidate_id(cell["prompt_id"], self.policy.id, cell["strategy"], cell["sample"])
            seed = ids.sample_seed(self.project.seed, name)
            waiting[name] = cell | {"candidate_id": name, "seed": seed}
            yield Request(name, last[1], _sampling(strategy, self.project), seed)

    def _row(self, cell: Row, done: Completion) -> Row:
        mine = self.cells[cell["strategy"]]
        text = extract(done.text, mine.strategy.extract) if done.status == "ok" else None
        return {
            "candidate_id": cell["candidate_id"],
            "prompt_id": cell["prompt_id"],
            "policy": self.policy.id,
            "strategy": cell["strategy"],
            "sample": cell["sample"],
            "stream": mine.stream,
            "text": text,
            "raw": done.text,
            "token_ids": list(done.token_ids),
            "finish_reason": done.finish_reason,
            "status": done.status,
            "error": done.error,
            "seed": cell["seed"],
            "prompt_tokens": done.prompt_tokens,
            "tokens": done.completion_tokens,
            "cached_tokens": done.cached_tokens,
            "seconds": done.seconds,
            "chunk_id": self.chunk,
        }


class _Task:
    """The cells of one task on their way: kept ones, suspects, and those in flight.

    `ready` are rows that need no engine; `suspects` are asked after all others, so that they take nobody along.
    """

    def __init__(self, work: Work, book: journal.Book, beats: Path) -> None:
        self._work, self._book, self._beats = work, book, beats
        self._waiting: dict[str, Row] = {}
        self._said: dict[str, float] = {"done": 0, "errors": 0, "tokens": 0, "seconds": 0.0, "full_s": 0.0}
        self._said_at = 0.0
        self.ready: deque[Row] = deque()
        self.suspects: list[tuple[History, Request]] = []

    def fresh(self, cells: Iterable[Row]) -> Iterator[Request]:
        """Requests nothing is known about; the others are sorted out."""
        for request in self._work._requests(cells, self._waiting):
            history = self._book.histories.get(request.key, History())
            if request.key in self._book.kept:
                del self._waiting[request.key]
                self.ready.append(self._book.kept.pop(request.key))
            elif history.guilty:
                done = Completion(request.key, "error", error=history.verdict())
                self.ready.append(self._work._row(self._waiting.pop(request.key), done))
            elif history.level:
                self.suspects.append((history, request))
            else:
                yield request

    def rows(self, engine: Engine, fresh: Iterable[Request]) -> Iterator[Row]:
        """All rows: of fresh requests in one window, then of suspects, company by company."""
        dog = Watchdog(self._work.project.engine.stall_s, self._book.died)

        def step() -> Sequence[Completion]:
            self._book.tick()
            return self._timed(engine, dog)

        try:
            # Noted as the window takes them, with the engine built: one that dies while loading is nobody's fault.
            yield from self._finished(window.run(engine, map(self._noted, fresh), step))
            for company in companies(self.suspects, engine.width):
                self._book.flush()
                yield from self._finished(window.run(engine, map(self._noted, company), step))
            yield from self._drained()
        finally:
            dog.close()
            self._beat()

    def _noted(self, request: Request) -> Request:
        self._book.asked(request.key)
        return request

    def _timed(self, engine: Engine, dog: Watchdog) -> Sequence[Completion]:
        full, began = engine.inflight >= engine.width, time.monotonic()
        done = dog.watch(engine.poll)
        now = time.monotonic()
        self._said["seconds"] += now - began
        self._said["full_s"] += (now - began) * full
        if now - self._said_at > _BEAT_S:
            self._said_at = now
            self._beat()
        return done

    def _finished(self, completions: Iterable[Completion]) -> Iterator[Row]:
        for completion in completions:
            row = self._work._row(self._waiting.pop(completion.key), completion)
            self._book.answered(row)
            self._said["tokens"] += completion.completion_tokens
            yield self._counted(row)
            yield from self._drained()

    def _drained(self) -> Iterator[Row]:
        while self.ready:
            yield self._counted(self.ready.popleft())

    def _counted(self, row: Row) -> Row:
        self._said["done"] += 1
        self._said["errors"] += row["status"] != "ok"
        return row

    def _beat(self) -> None:
        """Tell the driver how far this attempt is; a lost beat only makes the bar jump."""
        with contextlib.suppress(OSError):  # the driver has ended, or was another one
            self._beats.write_text(json.dumps(self._said))


def _sampling(strategy: Strategy, project: Project) -> Sampling:
    return Sampling(project.model.max_tokens, strategy.temperature, strategy.top_p, strategy.top_k, strategy.min_p)
