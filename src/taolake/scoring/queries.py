"""Asking the child process that runs queries (`taolake.sandbox.query`), and telling whose fault a failure was.

A wrong query is the candidate's fault (`QueryError`), and so is one that takes more memory than it may. Trouble with
the machine (busy file, broken disk, a killed process) is an `OSError`. SQLite and DuckDB; no verdicts here.
"""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from taolake.sandbox import Child
from taolake.sandbox.statement import QueryError
from taolake.types import Score

Dialect = Literal["sqlite", "duckdb"]
Row = tuple[Any, ...]

GRACE_S = 1.0  # what the engine's own clock gets before the child is killed
MEMORY_MB = 512
_CRASHES = {-s: s.name for s in (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)}


def run_query(
    database: str, sql: str, *, dialect: Dialect, timeout_s: float, max_rows: int, memory_mb: int = MEMORY_MB
) -> list[Row]:
    """Run one SELECT and return its rows; DuckDB's dates, structs and the like come as text.

    Raises:
        QueryError: the query is wrong, is not a single SELECT, or passes a limit.
        OSError: the machine failed, not the query.
    """
    (found,) = run_queries(
        database, [sql], dialect=dialect, timeout_s=timeout_s, max_rows=max_rows, memory_mb=memory_mb
    )
    if isinstance(found, Exception):
        raise found
    return found


def run_queries(
    database: str,
    queries: Sequence[str],
    *,
    dialect: Dialect,
    timeout_s: float,
    max_rows: int,
    memory_mb: int = MEMORY_MB,
) -> Iterator[list[Row] | QueryError | OSError]:
    """Run queries one after the other in the child; each gives its rows, or what `run_query` would raise."""
    left, killed = list(queries), False
    while left:
        try:
            to = served(database, dialect, memory_mb)
        except OSError as error:
            yield from [error] * len(left)
            return
        asked = {"queries": left, "timeout_s": timeout_s, "max_rows": max_rows}
        done, is_over = 0, False
        try:
            for reply in to.child.ask(asked, len(left), timeout_s + GRACE_S):
                done, is_over = done + 1, "last" in reply
                yield _outcome(reply)
                if is_over:
                    break
        except TimeoutError:
            done += 1
            yield QueryError("the query ran past its time limit and was killed", "timeout")
        except ChildProcessError:
            # A kill from outside may have hit the child between two queries: the query gets one more try.
            if to.child.returncode != -signal.SIGKILL or killed:
                done += 1
                yield _death(to.child.returncode)
            killed = not killed and to.child.returncode == -signal.SIGKILL
        finally:
            if is_over or done < len(left):  # its last word, or replies that nobody took
                to.child.close()
        left = left[done:]


@dataclass
class Served:
    """A database being served: which bytes of it, by which child, and the verdicts given, by limits and answer."""

    identity: tuple[int, int]
    child: Child
    known: dict[tuple[float, int], dict[str, Score]] = field(default_factory=dict)


_thread = threading.local()


def served(database: str, dialect: Dialect, memory_mb: int) -> Served:
    """This thread's child for a database; a file replaced on disk, a fork, or a dead child gets a new one.

    Raises:
        OSError: it does not start, or does not open the file.
    """
    file = Path(database).resolve()
    stat = file.stat()
    key, identity = (os.getpid(), dialect, file, memory_mb), (stat.st_ino, stat.st_mtime_ns)
    cache: dict[Any, Served] = _thread.__dict__.setdefault("served", {})
    found = cache.get(key)
    if found and found.identity == identity and found.child.returncode is None:
        return found
    if found:
        found.child.close()
    child = Child("query", {"database": str(file), "dialect": dialect, "memory_mb": memory_mb})
    if "trouble" in child.hello:
        child.close()
        raise OSError(child.hello["trouble"])
    kept = found.known if found and found.identity == identity else {}
    cache[key] = Served(identity, child, kept)
    return cache[key]


def _outcome(reply: dict[str, Any]) -> list[Row] | QueryError | OSError:
    if "rows" in reply:
        return [tuple(map(_value, row)) for row in reply["rows"]]
    if "fault" in reply:
        return QueryError(reply["fault"], reply["status"])
    return OSError(reply["trouble"])


def _value(cell: Any) -> Any:
    match cell:
        case {"bytes": text}:
            return bytes.fromhex(text)
        case {"decimal": text}:
            return Decimal(text)
        case list():
            return [_value(item) for item in cell]
    return cell


def _death(code: int | None) -> QueryError | OSError:
    """A child that crashes in the middle of a query ran into its memory limit inside the engine's own code."""
    if code in _CRASHES:
        return QueryError(f"the query crashed its process ({_CRASHES[code]}), most likely for memory; select less")
    return OSError(f"the process that ran the query ended with status {code}, which no query brings about")
