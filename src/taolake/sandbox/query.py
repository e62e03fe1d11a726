"""The child that runs generated queries, read-only and bounded: SQLite and DuckDB. Started by `taolake.scoring.sql`.

Covered: one SELECT or WITH; nothing is written, attached or loaded; limits on time, rows, bytes and the text itself.
Two lines of defence. The engine's own limits end most queries and leave the child alive. Where they do not (DuckDB
reads its clock between vectors only; `repeat('x', 1000000000)` passed its clock and its memory limit) the address space
of this process ends it, or the parent kills it. random() is allowed, so a result need not repeat.
"""

import json
import os
import sqlite3
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taolake.sandbox.limits import die_with_parent, limit_files, limit_memory
from taolake.sandbox.statement import QueryError, require_one_select

Row = tuple[Any, ...]
Run = Callable[[str, float, int], list[Row]]

MAX_RESULT_BYTES = 16 << 20  # 1000 rows of the longest value would be 1 GB

_SQLITE_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 1 << 20,
    sqlite3.SQLITE_LIMIT_COLUMN: 500,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1_000,  # LIKE is quadratic inside one opcode, where no clock is read
}
_SQLITE_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_SQLITE_DENIED = {"load_extension", "fts3_tokenizer"}  # the second takes the address of code to run
_SQLITE_QUERY_FAULTS = {1, 18, 20, 23, 25}  # SQLITE_ERROR, TOOBIG, MISMATCH, AUTH, RANGE
_SQLITE_NOMEM = 7
_DUCKDB_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",  # files, extensions, and this process's own variables as tables
    "autoload_known_extensions": "false",
    "memory_limit": "256MB",
    "max_temp_directory_size": "0B",  # else it spills beside the database
    "threads": "1",
    "lock_configuration": "true",
}
_TOO_SLOW = "the query ran past its time limit"
_TOO_BIG = "the query ran out of memory: {}; select fewer rows or smaller values"


class OutOfMemoryError(QueryError):
    """The query asked for more memory than the child has; what is left of the child cannot be trusted."""


def main(options: str) -> None:
    """Serve until the pipe closes, or until one query has left the process in doubt.

    In: `{queries, timeout_s, max_rows}`. Out, for each query: `{rows}`, `{fault, status}` or `{trouble}`.
    """
    given = json.loads(options)
    die_with_parent(given["parent"])
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    try:
        run = _sqlite(Path(given["database"])) if given["dialect"] == "sqlite" else _duckdb(Path(given["database"]))
        run("SELECT count(*) FROM sqlite_master", time.monotonic() + 60, 1)
    except (QueryError, ImportError, OSError, sqlite3.Error, RuntimeError) as error:  # duckdb's trouble is RuntimeError
        _send(sink, {"trouble": f"{type(error).__name__}: {error}"})
        return
    limit_files(0)
    limit_memory(given["memory_mb"])
    _send(sink, {})
    while header := source.read(4):
        asked = json.loads(source.read(struct.unpack(">I", header)[0]))
        for sql in asked["queries"]:
            reply = _answer(run, sql, asked["timeout_s"], asked["max_rows"])
            _send(sink, reply)
            if "last" in reply:
                return


def _answer(run: Run, sql: str, timeout_s: float, max_rows: int) -> dict[str, Any]:
    """What one query gave; `last` says that the process ends after it."""
    deadline = time.monotonic() + timeout_s
    try:
        require_one_select(sql)
        return {"rows": [[_cell(value) for value in row] for row in run(sql, deadline, max_rows)]}
    except OutOfMemoryError as error:
        return {"fault": str(error), "status": "error", "last": True}
    except MemoryError:
        return {"fault": _TOO_BIG.format("the process's limit"), "status": "error", "last": True}
    except QueryError as error:
        return {"fault": str(error)[:1000], "status": error.status}
    except (sqlite3.Error, RuntimeError) as error:  # the engine's own trouble, or a broken file's
        return {"trouble": f"{type(error).__name__}: {error}", "last": True}


def _send(sink: Any, reply: dict[str, Any]) -> None:
    try:
        body = json.dumps(reply).encode()
    except MemoryError:
        body = json.dumps({"fault": _TOO_BIG.format("its result"), "status": "error"}).encode()
    sink.write(struct.pack(">I", len(body)) + body)
    sink.flush()


def _cell(value: Any) -> Any:
    """A value JSON has no word for: bytes and decimals keep their kind, dates, structs and the like become text."""
    if isinstance(value, list | tuple):
        return [_cell(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return {"bytes": bytes(value).hex()}
    return {"decimal": str(value)} if type(value).__name__ == "Decimal" else str(value)


def _sqlite(file: Path) -> Run:
    connection = sqlite3.connect(f"{file.as_uri()}?mode=ro{_frozen(file)}", uri=True, isolation_level=None)
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA temp_store = MEMORY")  # a sort that spills could write no file here
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    for limit, value in _SQLITE_LIMITS.items():
        connection.setlimit(limit, value)
    return lambda sql, deadline, max_rows: _run_sqlite(connection, sql, deadline, max_rows)


def _frozen(file: Path) -> str:
    """A file in WAL mode makes readers write beside it, unless they are told that nobody else writes."""
    with file.open("rb") as handle:
        is_wal = handle.read(20)[18:20] == b"\x02\x02"
    log = Path(f"{file}-wal")
    return "&immutable=1" if is_wal and not (log.exists() and log.stat().st_size) else ""


def _run_sqlite(connection: sqlite3.Connection, sql: str, deadline: float, max_rows: int) -> list[Row]:
    def authorize(action: int, _: str | None, name: str | None, *__: str | None) -> int:
        # Compiling reads no clock of its own in SQLite 3.40, but it asks here for every SELECT and column.
        denied = action not in _SQLITE_ALLOWED or (name or "").lower() in _SQLITE_DENIED
        return sqlite3.SQLITE_DENY if denied or time.monotonic() > deadline else sqlite3.SQLITE_OK

    connection.set_authorizer(authorize)
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 5_000)
    cursor = connection.cursor()
    try:
        return _fetch(cursor.execute(sql), max_rows)
    except (sqlite3.Error, sqlite3.Warning) as error:  # several statements are a Warning in Python 3.11
        if time.monotonic() > deadline:
            raise QueryError(_TOO_SLOW, "timeout") from None
        code = getattr(error, "sqlite_errorcode", 1) & 0xFF
        if code == _SQLITE_NOMEM:
            raise OutOfMemoryError(_TOO_BIG.format(error)) from None
        if code in _SQLITE_QUERY_FAULTS:
            raise QueryError(str(error)) from None
        raise
    finally:
        cursor.close()
        connection.set_progress_handler(None, 0)
        connection.set_authorizer(None)


def _duckdb(file: Path) -> Run:
    import duckdb

    connection = duckdb.connect(file, True, _DUCKDB_CONFIG)

    def run(sql: str, deadline: float, max_rows: int) -> list[Row]:
        timer = threading.Timer(max(0.0, deadline - time.monotonic()), connection.interrupt)
        timer.start()
        try:
            kinds = [str(statement.type) for statement in connection.extract_statements(sql)]
            if kinds != ["StatementType.SELECT"]:
                raise QueryError(f"got statements {kinds}, wanted one SELECT")
            return _fetch(connection.execute(sql), max_rows)
        except duckdb.InterruptException:
            raise QueryError(_TOO_SLOW, "timeout") from None
        except duckdb.OutOfMemoryException as error:
            raise OutOfMemoryError(_TOO_BIG.format(str(error).partition("\n")[0])) from None
        except (duckdb.OperationalError, duckdb.InternalError, duckdb.FatalException) as error:
            raise RuntimeError(str(error)) from None
        except duckdb.Error as error:
            raise QueryError(str(error)) from None
        finally:
            timer.cancel()

    return run


def _fetch(cursor: Any, max_rows: int) -> list[Row]:
    """Take rows one at a time: a batch of the longest rows would be over the byte limit before it is counted."""
    rows, size = list[Row](), 0
    while row := cursor.fetchone():
        rows.append(row)
        size += sum(len(v) if isinstance(v, str | bytes | list) else 8 for v in row)
        if len(rows) > max_rows:
            raise QueryError(f"got more than {max_rows} rows; add a LIMIT or an aggregate")
        if size > MAX_RESULT_BYTES:
            raise QueryError(f"got a result over {MAX_RESULT_BYTES >> 20} MiB; select fewer or shorter columns")
    return rows
