"""The journal of a chunk in the making: finished rows every few seconds, and what was in flight when an engine died.

A task writes parts (`part-*.jsonl`, whole or not there) and a log (`log-*`, a line a request: `+key` before it goes in
flight, `-key` once it is answered). Whoever comes next reads both. A retry of the task goes on in the same folder, and
so does a later run of the same chunk; what belongs to chunks of another plan is committed as it is (`salvage`). Not
here: the commit of a chunk (`generate`), and who killed the engine (`suspects`).
"""

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from taolake import ids, lake
from taolake.config import Project
from taolake.stages.fanout import Row
from taolake.stages.round import Round
from taolake.stages.suspects import add, read_logs, read_suspects, write_suspects
from taolake.types import Policy

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


class Book:
    """One task's page of the journal.

    Args:
        folder: where the attempts of this task write.
        attempt: number of the attempt, from 0, as Spark counts.
        every_s: seconds between two parts.
    """

    def __init__(self, folder: Path, attempt: int, every_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._every = folder, every_s
        self.kept = read_parts(folder)
        logs = log_folder(folder)
        logs.mkdir(parents=True, exist_ok=True)
        self.histories = add(read_suspects(folder.parent.parent), read_logs(logs, attempt))
        self._number, self._log = _new_log(logs)
        self._note(f"@{attempt}")
        self._buffer: list[bytes] = []
        self._parts, self._flushed, self._dead = 0, time.monotonic(), False

    def asked(self, key: str) -> None:
        """Write down that a request goes in flight; it survives the process, and that is enough."""
        self._note(f"+{key}")

    def answered(self, row: Row) -> None:
        """Keep a finished row for the next part."""
        self._note(f"-{row['candidate_id']}")
        self._buffer.append(json.dumps(row).encode())

    def tick(self) -> None:
        """Write a part when it is time."""
        if time.monotonic() - self._flushed >= self._every:
            self.flush()

    def flush(self) -> None:
        """Write what is finished: beside its place first, then moved there, so that a reader sees all of it or none."""
        self._flushed = time.monotonic()
        if not self._buffer:
            return
        self._folder.mkdir(parents=True, exist_ok=True)  # another run may have salvaged and removed it
        name = f"part-{self._number:04d}-{self._parts:06d}.jsonl"
        _write_whole(self._folder / name, b"\n".join([*self._buffer, b""]))
        self._buffer.clear()
        self._parts += 1

    def died(self, reason: str) -> None:
        """Write down why the engine died; its requests stay open in the log."""
        self._dead = True
        self.flush()
        self._note("!" + " ".join(reason.split())[:300])

    def close(self) -> None:
        """Write the rest; a log without an end says that the process died."""
        self.flush()
        if not self._dead:
            self._note(".")
        os.close(self._log)

    def _note(self, line: str) -> None:
        os.write(self._log, line.encode() + b"\n")


@contextlib.contextmanager
def opened(folder: Path, attempt: int, every_s: float) -> Iterator[Book]:
    """A task's page; an exception inside counts as the engine's death."""
    book = Book(folder, attempt, every_s)
    try:
        yield book
    except Exception as error:  # whatever an engine dies of
        book.died(f"{type(error).__name__}: {error}")
        raise
    finally:
        book.close()


def folder_of(project: Project, policy: str, chunk: str = "") -> Path:
    """Where a policy's journal is, or a chunk's part of it; below the project's work folder, which all machines see."""
    return Path(project.work, "journal", policy, chunk)


def log_folder(folder: Path) -> Path:
    """Where the logs of a task are: beside its parts, but on the machine itself where files cannot be appended to.

    A Databricks volume takes whole files only. A retry on another machine then does not know what was in flight.
    """
    if folder.parts[:2] not in [("/", "Volumes"), ("/", "dbfs")]:
        return folder
    return Path(tempfile.gettempdir(), f"taolake-{os.getuid()}", "journal", ids.content_hash(str(folder)))


def read_parts(folder: Path) -> dict[str, Row]:
    """Finished rows of a task's earlier attempts by candidate; a line that is no row is passed over."""
    found: dict[str, Row] = {}
    for file in sorted(folder.glob("part-*.jsonl")):
        for line in file.read_bytes().splitlines():
            with contextlib.suppress(ValueError):  # torn or not UTF-8: its row is asked for again
                row = json.loads(line)
                if isinstance(row, dict) and "candidate_id" in row:
                    found[row["candidate_id"]] = row
    return found


def discard(project: Project, policy: str, chunk: str) -> None:
    """Delete the journal of a committed chunk."""
    shutil.rmtree(folder_of(project, policy, chunk), ignore_errors=True)


def forget(project: Project, policy: str) -> None:
    """Delete all of a policy's journal, once nothing of its plan is missing."""
    shutil.rmtree(folder_of(project, policy), ignore_errors=True)


def salvage(round_: Round, policy: Policy, planned: Collection[str], commit: Callable[["DataFrame", str], None]) -> int:
    """Commit what the journals of earlier plans hold, and delete them; returns the rows committed.

    The journal of a chunk that is planned again is left to its tasks. What was in flight at a death is remembered for
    all later chunks. Where it returns more than 0, the plan must be made again. It may be killed anywhere: rows that
    are committed are left out the next time.

    Args:
        round_: where candidates are.
        policy: whose.
        planned: ids of the chunks of the plan.
        commit: commits candidates under the id given, at most once.
    """
    home = folder_of(round_.project, policy.id)
    chunks = [f for f in sorted(home.glob("*")) if f.is_dir() and f.name not in planned]
    parts = [str(p) for f in chunks for p in sorted(f.glob("*/part-*.jsonl"))]
    rows = _commit(round_, policy, parts, commit) if parts else 0
    tasks = [task for f in chunks for task in sorted(f.glob("*"))]
    found = add(*(read_logs(log_folder(task)) for task in tasks))
    if found:
        write_suspects(home, add(read_suspects(home), found), _write_whole)
    for folder in chunks:
        shutil.rmtree(folder, ignore_errors=True)
    return rows


def _commit(round_: Round, policy: Policy, parts: list[str], commit: Callable[["DataFrame", str], None]) -> int:
    from pyspark.sql import functions as f

    reader = round_.lake.spark.read.schema(lake.CANDIDATES.schema()).option("mode", "DROPMALFORMED")
    found = reader.json([Path(part).absolute().as_uri() for part in parts]).where(f.col("policy") == policy.id)
    found = found.where(f.col("candidate_id").isNotNull()).dropDuplicates(["candidate_id"])
    done = round_.lake.read(lake.CANDIDATES).where(f.col("policy") == policy.id).select("candidate_id")
    rows = found.join(done, "candidate_id", "left_anti").persist()
    try:
        if count := rows.count():
            chunk = ids.content_hash("salvage", policy.id, round_.lake.content_id(rows, "candidate_id"))
            commit(rows.withColumn("chunk_id", f.lit(chunk)), chunk)
    finally:
        rows.unpersist()
    return count


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def _new_log(folder: Path) -> tuple[int, int]:
    """Open the next free log; number and descriptor."""
    number = 0
    while True:
        with contextlib.suppress(FileExistsError):
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND
            return number, os.open(folder / f"log-{number:04d}", flags, 0o600)
        number += 1
