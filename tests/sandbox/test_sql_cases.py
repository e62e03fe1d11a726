"""Pairs of queries with their verdicts by each rule, and queries that mean harm: what they end in, and how soon."""

import math
import os
import re
import signal
import sqlite3
import time
from pathlib import Path

import duckdb
import pytest

from taolake.config import SqlScorer
from taolake.ids import file_hash
from taolake.scoring import build, queries
from taolake.scoring.results import Rule, same_rows
from taolake.scoring.sql import same_result

ROWS = [
    ("tea", 2.0, 1, "2024-01-05"),
    ("tea", 2.0, 3, "2024-02-10"),
    ("salt", 0.1, 2, "2023-12-31"),
    ("", 0.0, 0, None),
    (None, None, 5, "2024-02-29"),
]
SLOW_S, OTHER_S = 0.2, 5.0  # time limits: a query that ends by another limit must not end by this one


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same five rows in SQLite and in DuckDB, and 2000 numbers to make joins large."""
    lite, duck = tmp_path_factory.mktemp("lite") / "shop.db", tmp_path_factory.mktemp("duck") / "shop.duckdb"
    with sqlite3.connect(lite) as made:
        made.execute("CREATE TABLE item (name TEXT, price REAL, n INTEGER, day TEXT)")
        made.executemany("INSERT INTO item VALUES (?, ?, ?, ?)", ROWS)
        made.execute("CREATE TABLE number (i INTEGER)")
        made.executemany("INSERT INTO number VALUES (?)", [(i,) for i in range(2000)])
    made.close()
    with duckdb.connect(str(duck)) as other:
        other.execute("CREATE TABLE item (name TEXT, price DOUBLE, n INTEGER, day DATE)")
        other.executemany("INSERT INTO item VALUES (?, ?, ?, ?)", ROWS)
        other.execute("CREATE TABLE number AS SELECT range::INTEGER AS i FROM range(2000)")
    return {"sqlite": str(lite), "duckdb": str(duck)}


# gold, query, then whether they are the same by `multiset`, `spider`, `bird`
PAIRS = [
    # order
    ("SELECT n FROM item", "SELECT n FROM item ORDER BY n DESC", 1, 1, 1),
    ("SELECT n FROM item ORDER BY n", "SELECT n FROM item ORDER BY n DESC", 0, 0, 1),
    ("SELECT n FROM item ORDER BY n", "SELECT n FROM item ORDER BY n ASC", 1, 1, 1),
    ("SELECT n FROM item ORDER BY n DESC LIMIT 2", "SELECT n FROM item WHERE n > 2 ORDER BY 1 DESC", 1, 1, 1),
    ("SELECT n FROM item ORDER BY n DESC LIMIT 2", "SELECT n FROM item WHERE n > 2 ORDER BY 1", 0, 0, 1),
    ("SELECT * FROM (SELECT n FROM item ORDER BY n)", "SELECT n FROM item ORDER BY n DESC", 1, 1, 1),
    ("SELECT max(n) FROM item", "SELECT n FROM item ORDER BY n DESC LIMIT 1", 1, 1, 1),
    # duplicates
    ("SELECT name FROM item WHERE n IN (1, 3)", "SELECT DISTINCT name FROM item WHERE n IN (1, 3)", 0, 0, 1),
    ("SELECT DISTINCT price FROM item", "SELECT price FROM item", 0, 0, 1),
    ("SELECT 1 UNION ALL SELECT 1", "SELECT 1 UNION SELECT 1", 0, 0, 1),
    ("SELECT 1 UNION ALL SELECT 1 UNION ALL SELECT 2", "SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 2", 0, 0, 1),
    ("SELECT name FROM item GROUP BY name", "SELECT DISTINCT name FROM item", 1, 1, 1),
    # NULL
    ("SELECT NULL", "SELECT ''", 0, 0, 0),
    ("SELECT NULL", "SELECT 0", 0, 0, 0),
    ("SELECT NULL", "SELECT NULL", 1, 1, 1),
    ("SELECT '', 0", "SELECT 0, ''", 0, 1, 0),
    ("SELECT NULL UNION ALL SELECT NULL", "SELECT NULL", 0, 0, 1),
    ("SELECT name FROM item WHERE name IS NULL", "SELECT name FROM item WHERE name = ''", 0, 0, 0),
    ("SELECT max(price) FROM item WHERE n > 99", "SELECT NULL", 1, 1, 1),
    ("SELECT count(name) FROM item", "SELECT count(*) FROM item", 0, 0, 0),
    ("SELECT coalesce(name, '') FROM item", "SELECT name FROM item", 0, 0, 0),
    # numbers
    ("SELECT 2", "SELECT 2.0", 1, 1, 1),
    ("SELECT 2", "SELECT '2'", 0, 0, 0),
    ("SELECT 0.1 + 0.2 + 0.0", "SELECT 0.3", 1, None, None),  # DuckDB's are decimals, and exact
    ("SELECT sum(price) FROM item", "SELECT 4.1e0", 1, None, None),
    ("SELECT 1e0 / 3", "SELECT 0.333333e0", 1, 0, 0),
    ("SELECT 1e0 / 3", "SELECT 0.3333e0", 0, 0, 0),
    ("SELECT 10.01", "SELECT 10.02", 0, 0, 0),
    ("SELECT 12345678.12", "SELECT 12345678.13", 0, 0, 0),
    ("SELECT -1", "SELECT 1", 0, 0, 0),
    ("SELECT 9007199254740993", "SELECT 9007199254740992", 0, 0, 0),
    ("SELECT avg(n) FROM item", "SELECT sum(n) * 1.0 / count(*) FROM item", 1, 1, 1),
    # columns
    ("SELECT n AS a FROM item", "SELECT n AS b FROM item", 1, 1, 1),
    ("SELECT name, n FROM item", "SELECT n, name FROM item", 0, 1, 0),
    ("SELECT name, n FROM item ORDER BY n", "SELECT n, name FROM item ORDER BY n", 0, 1, 0),
    ("SELECT name, n FROM item ORDER BY n", "SELECT n, name FROM item ORDER BY n DESC", 0, 0, 0),
    ("SELECT name FROM item", "SELECT name, n FROM item", 0, 0, 0),
    ("SELECT n, n + 1 FROM item", "SELECT n + 1, n FROM item", 0, 1, 0),
    ("SELECT 1, 2 UNION ALL SELECT 2, 1", "SELECT 2, 1 UNION ALL SELECT 1, 2", 1, 1, 1),
    ("SELECT 1, 2 UNION ALL SELECT 2, 1", "SELECT 1, 1 UNION ALL SELECT 2, 2", 0, 0, 0),
    ("SELECT 1, 2, 3", "SELECT 3, 1, 2", 0, 1, 0),
    ("SELECT i.name FROM item i WHERE i.n = 1", "SELECT name FROM item WHERE n < 2 AND n > 0", 1, 1, 1),
    ('SELECT n AS "order by" FROM item', "SELECT n FROM item ORDER BY n DESC", 1, 1, 1),
    # nothing found
    ("SELECT n FROM item WHERE n > 99", "SELECT n FROM item WHERE n < 0", 1, 1, 1),
    ("SELECT n FROM item WHERE n > 99", "SELECT name, n FROM item WHERE n < 0", 1, 1, 1),
    ("SELECT n FROM item WHERE n > 99", "SELECT n FROM item", 0, 0, 0),
    ("SELECT n FROM item", "SELECT n FROM item WHERE n > 99", 0, 0, 0),
    ("SELECT n FROM item WHERE n > 99", "SELECT max(n) FROM item WHERE n > 99", 0, 0, 0),
    # dates
    ("SELECT day FROM item WHERE n = 1", "SELECT '2024-01-05'", 1, 1, 1),
    ("SELECT day FROM item WHERE n = 1", "SELECT '2024-1-5'", 0, 0, 0),
    ("SELECT n FROM item WHERE day >= '2024-02-01'", "SELECT n FROM item WHERE n IN (3, 5)", 1, 1, 1),
    ("SELECT max(day) FROM item", "SELECT '2024-02-29'", 1, 1, 1),
    ("SELECT day FROM item WHERE n = 0", "SELECT ''", 0, 0, 0),
    # text
    ("SELECT 'a'", "SELECT 'A'", 0, 0, 0),
    ("SELECT 'a'", "SELECT 'a '", 0, 0, 0),
    ("SELECT 'é'", "SELECT 'é'", 1, 1, 1),
    ("SELECT 'a', 'b'", "SELECT 'a,b', ''", 0, 0, 0),
    # the second query does not run, or may not
    ("SELECT 1", "SELECT nope", 0, 0, 0),
    ("SELECT 1", "", 0, 0, 0),
    ("SELECT 1", "SELECT 1; SELECT 1", 0, 0, 0),
    ("SELECT 1", "SELECT 1;", 1, 1, 1),
    ("SELECT 1", "-- one\nSELECT /* : */ 1", 1, 1, 1),
    ("SELECT n FROM item WHERE n = 1", "UPDATE item SET n = 1 RETURNING n", 0, 0, 0),
]  # fmt: skip


@pytest.mark.parametrize("dialect", ["sqlite", "duckdb"])
@pytest.mark.parametrize(("gold", "query", "multiset", "spider", "bird"), PAIRS)
def test_pair(
    gold: str, query: str, multiset: int, spider: int | None, bird: int | None, dialect: str, databases: dict[str, str]
) -> None:
    wanted: dict[Rule, int | None] = {"multiset": multiset, "spider": spider, "bird": bird}
    for rule, same in wanted.items():
        if same is not None:
            found = same_result(databases[dialect], gold, query, rule=rule, dialect=dialect, timeout_s=5)  # type: ignore[arg-type]
            assert found is bool(same), (rule, gold, query)


def test_floats_are_exact_by_the_public_rules() -> None:
    assert len(PAIRS) >= 60
    third, nearly = [(0.1 + 0.2,)], [(0.3,)]
    assert [same_rows(third, nearly, rule, False) for rule in ("multiset", "spider", "bird")] == [True, False, False]


def test_columns_that_cannot_be_told_apart_end_soon() -> None:
    """Forty columns of the same ones and noughts: every order of them looks promising for long."""
    rows = [tuple((i >> (j % 7)) & 1 for j in range(40)) for i in range(128)]
    shuffled = [tuple(reversed(row)) for row in rows]
    spoilt = [*shuffled[:-1], tuple(1 - value for value in shuffled[-1])]
    started = time.monotonic()
    assert same_rows(rows, shuffled, "spider", False)
    assert not same_rows(rows, spoilt, "spider", False)
    assert time.monotonic() - started < 10


BOMB = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"
GROW = "WITH RECURSIVE r(s) AS (SELECT 'x' UNION ALL SELECT s || s FROM r) SELECT max(length(s)) FROM r"
CROSS = "SELECT count(*) FROM number a, number b, number c, number d WHERE a.i * b.i + c.i = d.i * 7919 - 1"
WRONG, SLOW = (0.0, "ok"), (None, "timeout")

HOSTILE = [
    ("both", "DELETE FROM item", WRONG, "'delete'"),
    ("both", "DROP TABLE item", WRONG, "'drop'"),
    ("both", "CREATE TABLE evil AS SELECT 1", WRONG, "'create'"),
    ("both", "INSERT INTO item SELECT * FROM item", WRONG, "'insert'"),
    ("both", "SELECT 1; DROP TABLE item", WRONG, "several"),
    ("both", "WITH a AS (SELECT 1) DELETE FROM item", WRONG, "authorized|DELETE|one SELECT|read-only"),
    ("both", "ATTACH '/tmp/taolake_evil.db' AS evil", WRONG, "'attach'"),
    ("both", "DETACH main", WRONG, "'detach'"),
    ("both", "PRAGMA writable_schema = 1", WRONG, "'pragma'"),
    ("both", "VACUUM INTO '/tmp/taolake_evil.db'", WRONG, "'vacuum'"),
    ("both", "EXPLAIN SELECT 1", WRONG, "'explain'"),
    ("both", "SELECT load_extension('/tmp/evil.so')", WRONG, "load_extension"),
    ("both", "SELECT readfile('/etc/passwd')", WRONG, "readfile"),
    ("both", "SELECT writefile('/tmp/taolake_evil', 'x')", WRONG, "writefile"),
    ("both", BOMB, SLOW, "time limit"),
    ("both", CROSS, SLOW, "time limit"),
    ("both", "SELECT a.i FROM number a, number b", WRONG, "more than 1000 rows"),
    ("both", "SELECT " + "(" * 3000 + "1" + ")" * 3000, WRONG, "."),
    ("both", "SELECT '" + "x" * 30_000 + "'", WRONG, "characters"),
    ("sqlite", GROW, WRONG, "too big"),
    ("sqlite", "SELECT zeroblob(2000000000)", WRONG, "too big"),
    ("sqlite", "SELECT hex(zeroblob(500000)) FROM number", WRONG, "16 MiB"),
    ("sqlite", "SELECT hex(zeroblob(400000)) LIKE hex(zeroblob(4000)) || '%'", WRONG, "too complex"),
    ("sqlite", "SELECT replace(hex(zeroblob(90000)), '0', hex(zeroblob(90000)))", WRONG, "too big"),
    ("sqlite", "SELECT instr(hex(zeroblob(500000)), hex(zeroblob(250000)) || '1')", SLOW, "killed"),
    ("sqlite", "SELECT count(*) FROM (SELECT zeroblob(900000) AS z FROM number ORDER BY z || i)", None, "."),
    ("sqlite", "SELECT group_concat(hex(zeroblob(1000))) FROM number", WRONG, "too big"),
    ("sqlite", "SELECT count(*) FROM generate_series(1, 1000000000000)", WRONG, "generate_series"),
    ("sqlite", "SELECT * FROM pragma_database_list", WRONG, "authorized|prohibited"),
    ("sqlite", "SELECT fts3_tokenizer('simple', x'4141414141414141')", WRONG, "authorized"),
    ("duckdb", GROW, None, "memory|time limit"),
    ("duckdb", "SELECT repeat('x', 1000000000)", WRONG, "memory"),
    ("duckdb", "SELECT length(repeat('x', 4000000000))", WRONG, "memory"),
    ("duckdb", "SELECT len(range(1000000000))", WRONG, "memory"),
    ("duckdb", "SELECT count(DISTINCT repeat(i::TEXT, 100000)) FROM number", None, "."),
    ("duckdb", "SELECT levenshtein(repeat('a', 200000), repeat('b', 200000))", SLOW, "killed"),
    ("duckdb", "SELECT count(*) FROM generate_series(1, 1000000000000)", SLOW, "time limit"),
    ("duckdb", "SELECT * FROM read_csv('/etc/passwd')", WRONG, "Permission"),
    ("duckdb", "SELECT * FROM '/etc/passwd.csv'", WRONG, "/etc/passwd"),
    ("duckdb", "SELECT * FROM glob('/*')", WRONG, "Permission|disabled"),
    ("duckdb", "SELECT getenv('PATH')", WRONG, "getenv"),
    ("duckdb", "COPY item TO '/tmp/taolake_evil'", WRONG, "'copy'"),
    ("duckdb", "SET memory_limit = '100GB'", WRONG, "'set'"),
    ("duckdb", "SELECT * FROM query('DROP TABLE item')", WRONG, "."),
]  # fmt: skip
CASES = [(d, *rest) for named, *rest in HOSTILE for d in (["sqlite", "duckdb"] if named == "both" else [named])]


@pytest.mark.parametrize(("dialect", "sql", "verdict", "reason"), CASES, ids=[f"{c[0]}-{c[1][:60]}" for c in CASES])
def test_hostile_query_ends_in_its_limit(
    dialect: str,
    sql: str,
    verdict: tuple[float | None, str] | None,
    reason: str,
    databases: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the verdict is None it is the machine's speed that decides between too slow and too big; both are right."""
    monkeypatch.setattr(queries, "GRACE_S", 0.3)
    limit_s = OTHER_S if verdict == WRONG else SLOW_S
    file = Path(databases[dialect])
    before = file_hash(file)
    spec = {"kind": "sql", "name": "runs", "database": str(file), "dialect": dialect, "timeout_s": limit_s}
    score = build(SqlScorer.model_validate({**spec, "memory_mb": 256}))
    started = time.monotonic()
    got = score([], sql)
    assert time.monotonic() - started < limit_s + 5
    assert (got.value, got.status) in ([verdict] if verdict else [WRONG, SLOW]), got
    assert re.search(reason, str(got.detail["error"])), got.detail
    assert score([], "SELECT count(*) FROM item").value == 1.0
    assert file_hash(file) == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert not Path("/tmp/taolake_evil").exists() and not Path("/tmp/taolake_evil.db").exists()


def ask(database: str, sql: str) -> list[tuple[object, ...]]:
    return queries.run_query(database, sql, dialect="sqlite", timeout_s=5, max_rows=10)


def child_of(database: str) -> int:
    ask(database, "SELECT 1")
    return queries.served(database, "sqlite", queries.MEMORY_MB).child._process.pid


def test_killed_child_is_replaced_and_no_answer_is_lost(databases: dict[str, str]) -> None:
    first = child_of(databases["sqlite"])
    os.kill(first, signal.SIGKILL)
    assert ask(databases["sqlite"], "SELECT 7") == [(7,)]
    assert child_of(databases["sqlite"]) != first


def test_a_batch_goes_on_after_the_query_that_was_killed(
    databases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "GRACE_S", 0.3)
    stuck = "SELECT levenshtein(repeat('a', 200000), repeat('b', 200000))"
    asked = ["SELECT 1", stuck, "SELECT nope", "SELECT repeat('x', 1000000000)", "SELECT 2"]
    found = list(queries.run_queries(databases["duckdb"], asked, dialect="duckdb", timeout_s=SLOW_S, max_rows=10))
    assert found[0] == [(1,)] and found[4] == [(2,)]
    assert [getattr(error, "status", None) for error in found[1:4]] == ["timeout", "error", "error"]


def test_values_come_through_the_pipe_as_they_are(databases: dict[str, str]) -> None:
    got = ask(databases["sqlite"], "SELECT x'00ff', 1e999, -0.5, 9223372036854775807, 'ü\U0001f600', NULL, ''")
    assert got == [(b"\x00\xff", math.inf, -0.5, 9223372036854775807, "ü\U0001f600", None, "")]
    sql = "SELECT 1.50::DECIMAL(9, 2), [1, NULL], {'a': 1}, MAP {1: 2}, DATE '2024-01-02', 'ab'::BLOB, true"
    (row,) = queries.run_query(databases["duckdb"], sql, dialect="duckdb", timeout_s=5, max_rows=10)
    assert [str(value) for value in row] == ["1.50", "[1, None]", "{'a': 1}", "{1: 2}", "2024-01-02", "b'ab'", "True"]


def test_child_sees_no_environment(databases: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAOLAKE_TEST_SECRET", "hunter2")
    pid = child_of(str(Path(databases["sqlite"])))
    assert b"hunter2" not in Path(f"/proc/{pid}/environ").read_bytes()
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert [line.split()[3:5] for line in limits.splitlines() if line.startswith("Max file size")] == [["0", "0"]]


def test_database_in_wal_mode_is_read_without_a_file_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "wal.db"
    with sqlite3.connect(path) as made:
        made.execute("PRAGMA journal_mode = WAL")
        made.execute("CREATE TABLE t AS SELECT 7 AS x")
    made.close()
    assert ask(str(path), "SELECT x FROM t") == [(7,)]
    assert [p.name for p in tmp_path.iterdir()] == ["wal.db"]
