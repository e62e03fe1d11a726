"""Run a generated query read-only and bounded, and say what its result means. SQLite and DuckDB.

Covered: one SELECT or WITH; nothing is written, attached or loaded; limits on time, rows, bytes and the text itself.
Not a security sandbox: the query runs in this process. DuckDB reads its clock between vectors only, and one scalar
call that builds a huge value (`repeat('x', 1000000000)`) was seen to pass both its clock and its memory limit: put a
hostile model's candidates behind a process boundary. random() is allowed, so a result need not repeat.

A wrong query is the candidate's fault (`QueryError`, value 0). Trouble with the machine (busy file, broken disk, no
memory) comes out as the driver's own exception, and the scorer answers None, never 0.
"""

import math
import os
import re
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import duckdb

from taolake.config import SqlScorer
from taolake.ids import content_hash
from taolake.scoring.agreement import canonical as canonical
from taolake.types import Message, Score

Dialect = Literal["sqlite", "duckdb"]
Row = tuple[Any, ...]

MAX_QUERY_CHARS = 20_000
MAX_RESULT_BYTES = 16 << 20  # 1000 rows of the longest value would be 1 GB
MAX_COPIES = 50_000  # SQLite copies a CTE at every reference: 2^16 copies took 0.8 s, 2^30 would take the memory

_SQLITE_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 1 << 20,
    sqlite3.SQLITE_LIMIT_COLUMN: 500,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1_000,  # LIKE is quadratic inside one opcode, where no clock is read
}
_SQLITE_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_SQLITE_QUERY_FAULTS = {1, 18, 20, 23, 25}  # SQLITE_ERROR, TOOBIG, MISMATCH, AUTH, RANGE
_DUCKDB_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",  # files, extensions, and this process's own variables as tables
    "autoload_known_extensions": "false",
    "memory_limit": "256MB",
    "max_temp_directory_size": "0B",  # else it spills beside the database
    "threads": "1",
    "lock_configuration": "true",
}
_TOKEN = re.compile(
    r"""--[^\n]*|/\*.*?(?:\*/|\Z)|(?P<text>'(?:[^']|'')*'|\$\$.*?\$\$)"""
    r"""|["`](?P<name>[^"`]+)["`]|(?P<word>\w+)|(?P<mark>\S)""",
    re.DOTALL,
)
_CTE_DEFINED = re.compile(r"(?<!\S)(?:with|recursive|,) (\w+) (?:\( [^()]*\) )?as (?:not )?(?:materialized )?\(")
_TABLE_USED = re.compile(r"(?<!\S)(?:from|join|,|\() (?=(\w+) (?!\. |\( |as (?:not |materialized )*\( ))")
_TOO_SLOW = "the query ran past its time limit"
_thread = threading.local()


class QueryError(ValueError):
    """The query, not the machine, is at fault. `status` is `error` (wrong, refused, too large) or `timeout`."""

    def __init__(self, message: str, status: Literal["error", "timeout"] = "error") -> None:
        super().__init__(message, status)  # both, so that it survives pickling between processes
        self.status: Literal["error", "timeout"] = status

    def __str__(self) -> str:
        return str(self.args[0])


def run_query(database: str, sql: str, *, dialect: Dialect, timeout_s: float, max_rows: int) -> list[Row]:
    """Run one SELECT and return its rows.

    Raises:
        QueryError: the query is wrong, is not a single SELECT, or passes a limit.
        sqlite3.Error, duckdb.Error: the machine failed, not the query.
    """
    _require_one_select(sql)
    run = _run_sqlite if dialect == "sqlite" else _run_duckdb
    return run(_connection(database, dialect), sql, time.monotonic() + timeout_s, max_rows)


def answer_key(rows: Sequence[Row], sql: str) -> str:
    """Hash what a query's result means; row order counts only where the query itself asked for one."""
    return content_hash("sql", canonical(rows, _is_ordered(sql)))


def same_result(
    database: str, sql_a: str, sql_b: str, *, dialect: Dialect = "sqlite", timeout_s: float = 2.0, max_rows: int = 1000
) -> bool:
    """Whether two queries give the same result; order counts only if the first, the gold one, has an ORDER BY.

    A second query that is wrong or too slow is not the same; a gold query that fails raises its `QueryError`.
    """
    run = partial(run_query, database, dialect=dialect, timeout_s=timeout_s, max_rows=max_rows)
    ordered = _is_ordered(sql_a)
    gold = canonical(run(sql_a), ordered)
    try:
        return canonical(run(sql_b), ordered) == gold
    except QueryError:
        return False


@dataclass(frozen=True)
class SqlAnswer:
    """The `sql` scorer: 1 if the answer runs, 0 if it is wrong, None if it took too long or the machine failed."""

    spec: SqlScorer

    def __post_init__(self) -> None:
        file, dialect = self.spec.database, self.spec.dialect
        if not Path(file).is_file():
            raise ValueError(f"got database {file!r}, which is not a file; wanted a {dialect} database: check the path")
        try:
            _connection(file, dialect).execute("SELECT count(*) FROM sqlite_master")
        except (sqlite3.Error, duckdb.Error) as error:
            raise ValueError(f"{file!r} does not open as {dialect}: {error}; set `dialect` to what it is") from None

    def __call__(self, messages: Sequence[Message], answer: str) -> Score:
        """Run the answer."""
        spec = self.spec
        run = partial(run_query, dialect=spec.dialect, timeout_s=spec.timeout_s, max_rows=spec.max_rows)
        try:
            rows = run(spec.database, answer)
        except QueryError as error:
            if error.status == "timeout":
                return Score(None, "timeout", detail={"error": str(error)})
            return Score(0.0, detail={"error": str(error)})
        except (sqlite3.Error, duckdb.Error) as error:
            return Score(None, "error", detail={"error": f"{type(error).__name__}: {error}"})
        detail = {"rows": len(rows), "preview": [str(row)[:200] for row in rows[:3]]}
        return Score(1.0, answer_key=answer_key(rows, answer), detail=detail)


def _connection(database: str, dialect: Dialect) -> Any:
    """This thread's connection (scorers pickle without one); a file replaced on disk, or a fork, gets a new one."""
    file = Path(database).resolve()
    stat = file.stat()
    key, identity = (os.getpid(), dialect, file), (stat.st_ino, stat.st_mtime_ns)
    cache = _thread.__dict__.setdefault("connections", {})
    if key not in cache or cache[key][0] != identity:
        opened = _open_sqlite(file) if dialect == "sqlite" else duckdb.connect(file, True, _DUCKDB_CONFIG)
        cache[key] = (identity, opened)
    return cache[key][1]


def _open_sqlite(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, isolation_level=None)
    connection.execute("PRAGMA query_only = ON")
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    for limit, value in _SQLITE_LIMITS.items():
        connection.setlimit(limit, value)
    return connection


def _run_sqlite(connection: sqlite3.Connection, sql: str, deadline: float, max_rows: int) -> list[Row]:
    def authorize(action: int, _: str | None, name: str | None, *__: str | None) -> int:
        # Compiling reads no clock of its own in SQLite 3.40, but it asks here for every SELECT and column.
        denied = action not in _SQLITE_ALLOWED or (name or "").lower() == "load_extension"
        return sqlite3.SQLITE_DENY if denied or time.monotonic() > deadline else sqlite3.SQLITE_OK

    connection.set_authorizer(authorize)
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 5_000)
    cursor = connection.cursor()
    try:
        return _fetch(cursor.execute(sql), max_rows)
    except (sqlite3.Error, sqlite3.Warning) as error:  # several statements are a Warning in Python 3.11
        if time.monotonic() > deadline:
            raise QueryError(_TOO_SLOW, "timeout") from None
        if getattr(error, "sqlite_errorcode", 1) & 0xFF in _SQLITE_QUERY_FAULTS:
            raise QueryError(str(error)) from None
        raise
    finally:
        cursor.close()
        connection.set_progress_handler(None, 0)
        connection.set_authorizer(None)


def _run_duckdb(connection: duckdb.DuckDBPyConnection, sql: str, deadline: float, max_rows: int) -> list[Row]:
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), connection.interrupt)
    timer.start()
    try:
        kinds = [str(statement.type) for statement in connection.extract_statements(sql)]
        if kinds != ["StatementType.SELECT"]:
            raise QueryError(f"got statements {kinds}, wanted one SELECT")
        return _fetch(connection.execute(sql), max_rows)
    except duckdb.InterruptException:
        raise QueryError(_TOO_SLOW, "timeout") from None
    except (duckdb.OperationalError, duckdb.InternalError, duckdb.FatalException):
        raise
    except duckdb.Error as error:
        raise QueryError(str(error)) from None
    finally:
        timer.cancel()


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


def _tokens(sql: str) -> list[str]:
    """Words and marks in lower case, quoted names as one word, string constants as `'`; comments are left out."""
    found = [match for match in _TOKEN.finditer(sql) if match.lastgroup]
    return ["'" if m["text"] else re.sub(r"(?<=.)\W", "_", m[m.lastgroup or 0].lower()) for m in found]


def _require_one_select(sql: str) -> None:
    if len(sql) > MAX_QUERY_CHARS:
        raise QueryError(f"got {len(sql)} characters, wanted a query of at most {MAX_QUERY_CHARS}")
    if re.search("[\0\ud800-\udfff]", sql):
        raise QueryError("got a NUL or a lone surrogate, wanted text")
    tokens = _tokens(sql)
    while tokens and tokens[-1] == ";":
        tokens.pop()
    if ";" in tokens:
        raise QueryError("got several statements, wanted one SELECT")
    first = next((token for token in tokens if token != "("), "nothing")
    if first not in ("select", "with"):
        raise QueryError(f"got a statement that starts with {first[:40]!r}, wanted SELECT or WITH")
    text = " ".join(tokens)
    uses = Counter(_TABLE_USED.findall(text))
    if math.prod(max(1, uses[name]) for name in _CTE_DEFINED.findall(text)) > MAX_COPIES:
        raise QueryError(f"got common table expressions that unfold to over {MAX_COPIES} copies; nest fewer of them")


def _is_ordered(sql: str) -> bool:
    """Whether ORDER BY stands outside all parentheses: not in a window, a subquery or an aggregate."""
    depth = 0
    for token, after in pairwise(_tokens(sql)):
        depth += (token == "(") - (token == ")")
        if depth == 0 and (token, after) == ("order", "by"):
            return True
    return False
