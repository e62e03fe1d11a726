"""The SQL scorer: what runs, what is refused, what two results have in common, and that nothing is ever written."""

import pickle
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow
import pytest

from taolake.config import SqlScorer
from taolake.ids import file_hash
from taolake.scoring import build, version
from taolake.scoring.sql import MAX_QUERY_CHARS, QueryError, answer_key, run_query, same_result

BOMB = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"


def chain(depth: int) -> str:
    steps = "".join(f", a{i} AS (SELECT p.x FROM a{i - 1} AS p, a{i - 1} AS q)" for i in range(1, depth + 1))
    return f"WITH a0(x) AS (SELECT 1){steps} SELECT x FROM a{depth}"


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("lite") / "shop.db"
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE item (name TEXT, price REAL, n INTEGER)")
        made.executemany("INSERT INTO item VALUES (?, ?, ?)", [("tea", 2.0, 1), ("Käse", 3.5, 2), ("tea", 2.0, 3)])
    made.close()
    return str(path)


@pytest.fixture(scope="module")
def duck(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("duck") / "shop.duckdb"
    with duckdb.connect(str(path)) as made:
        made.execute("CREATE TABLE item (name TEXT, price DOUBLE, n INTEGER)")
        made.execute("INSERT INTO item VALUES ('tea', 2.0, 1), ('Käse', 3.5, 2), ('tea', 2.0, 3)")
    return str(path)


def lite_scorer(database: str, **options: object) -> SqlScorer:
    return SqlScorer.model_validate({"kind": "sql", "name": "runs", "database": database, **options})


def run(database: str, sql: str, dialect: str = "sqlite", timeout_s: float = 2.0, max_rows: int = 100) -> list[tuple]:
    return run_query(database, sql, dialect=dialect, timeout_s=timeout_s, max_rows=max_rows)


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT name FROM item WHERE n = 2", [("Käse",)]),
        ("  select 1 ; -- done", [(1,)]),
        ("/* SELECT; */ SELECT ';' -- ; DROP TABLE item", [(";",)]),
        ("WITH a AS (SELECT max(n) AS m FROM item) SELECT m FROM a", [(3,)]),
        ('SELECT n AS "a;b" FROM item WHERE n = 1', [(1,)]),
        ("SELECT NULL, price FROM item WHERE n = 2", [(None, 3.5)]),
        (chain(6), [(1,)]),
    ],
)
@pytest.mark.parametrize("dialect", ["sqlite", "duckdb"])
def test_query_gives_its_rows(sql: str, rows: list[tuple], dialect: str, lite: str, duck: str) -> None:
    assert run(lite if dialect == "sqlite" else duck, sql, dialect) == rows


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("", "nothing"),
        ("   -- only a comment", "nothing"),
        ("Sure! SELECT 1", "'sure'"),
        ("SELECT 1; SELECT 2", "several"),
        ("DELETE FROM item", "'delete'"),
        ("WITH a AS (SELECT 1) DELETE FROM item", "authorized"),
        ("WITH a AS (SELECT 1) INSERT INTO item SELECT 'x', 1, 1", "authorized"),
        ("ATTACH DATABASE 'other.db' AS other", "'attach'"),
        ("PRAGMA table_info(item)", "'pragma'"),
        ("SELECT * FROM pragma_table_info('item')", "authorized"),
        ("SELECT load_extension('x')", "load_extension"),
        ("SELECT LOAD_EXTENSION('x')", "LOAD_EXTENSION"),
        ("SELECT $$ ; $$", "one statement"),
        ("SELECT nope FROM item", "no such column"),
        ("SELECT 'open", "unrecognized"),
        ("SELECT ?", "bindings"),
        ("SELECT '\0'", "NUL"),
        ("SELECT '\ud800'", "surrogate"),
        ("SELECT '" + "x" * MAX_QUERY_CHARS + "'", "characters"),
        ("SELECT zeroblob(100000000)", "too big"),
        ("SELECT a.n FROM item a, item b, item c, item d, item e", "more than 100 rows"),
        ("SELECT hex(zeroblob(500000)) FROM item a, item b, item c", "over 16 MiB"),
        (chain(24), "copies"),
    ],
)
def test_sqlite_refuses(sql: str, reason: str, lite: str) -> None:
    before = file_hash(Path(lite))
    with pytest.raises(QueryError, match=reason) as raised:
        run(lite, sql)
    assert raised.value.status == "error"
    assert file_hash(Path(lite)) == before
    assert [p.name for p in Path(lite).parent.iterdir()] == ["shop.db"]


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT * FROM read_csv('/etc/passwd')", "Permission"),
        ("SELECT * FROM read_text('/etc/passwd')", "Permission"),
        ("SELECT * FROM '/etc/passwd.csv'", "/etc/passwd"),
        ("COPY item TO '/tmp/taolake_stolen.csv'", "'copy'"),
        ("SELECT 1; COPY item TO '/tmp/taolake_stolen.csv'", "several"),
        ("SELECT $a$ ' $a$; COPY item TO '/tmp/taolake_stolen.csv'", "wanted one SELECT"),
        ("WITH a AS (SELECT 1) INSERT INTO item SELECT 'x', 1, 1", "INSERT"),
        ("SET enable_external_access = true", "'set'"),
        ("SELECT * FROM secret_frame", "does not exist"),
        ("SELECT nope FROM item", "nope"),
        ("SELECT * FROM range(1000)", "more than 100 rows"),
        (chain(24), "copies"),
    ],
)
def test_duckdb_refuses(sql: str, reason: str, duck: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # DuckDB looks names up among the variables of the calling module, unless told not to.
    monkeypatch.setattr("taolake.scoring.sql.secret_frame", pyarrow.table({"x": [42]}), raising=False)
    before = file_hash(Path(duck))
    with pytest.raises(QueryError, match=reason) as raised:
        run(duck, sql, "duckdb")
    assert raised.value.status == "error"
    assert file_hash(Path(duck)) == before
    assert [p.name for p in Path(duck).parent.iterdir()] == ["shop.duckdb"]
    assert not Path("/tmp/taolake_stolen.csv").exists()


@pytest.mark.parametrize("dialect", ["sqlite", "duckdb"])
def test_endless_query_hits_the_time_limit_and_the_next_one_runs(dialect: str, lite: str, duck: str) -> None:
    database = lite if dialect == "sqlite" else duck
    started = time.monotonic()
    with pytest.raises(QueryError) as raised:
        run(database, BOMB, dialect, timeout_s=0.2)
    assert raised.value.status == "timeout"
    assert time.monotonic() - started < 1.5
    assert run(database, "SELECT 7", dialect) == [(7,)]


def test_sqlite_time_limit_holds_while_it_compiles(lite: str) -> None:
    with pytest.raises(QueryError) as raised:
        run(lite, chain(15), timeout_s=0.01)
    assert raised.value.status == "timeout"


@pytest.mark.parametrize(
    ("sql", "ordered"),
    [
        ("SELECT n FROM item ORDER BY n", True),
        ("SELECT n FROM item order /* by */\n BY n", True),
        ("SELECT n FROM item", False),
        ("SELECT row_number() OVER (ORDER BY n) FROM item", False),
        ("SELECT * FROM (SELECT n FROM item ORDER BY n)", False),
        ("SELECT 'x ORDER BY y' FROM item", False),
        ("SELECT n FROM item -- ORDER BY n", False),
        ("WITH a AS (SELECT n FROM item ORDER BY n) SELECT n FROM a", False),
    ],
)
def test_order_counts_only_where_the_query_asks(sql: str, ordered: bool) -> None:
    assert (answer_key([(1,), (2,)], sql) != answer_key([(2,), (1,)], sql)) is ordered


@pytest.mark.parametrize(
    ("gold", "query", "same"),
    [
        ("SELECT n FROM item", "SELECT n FROM item ORDER BY n DESC", True),
        ("SELECT n FROM item ORDER BY n", "SELECT n FROM item ORDER BY n DESC", False),
        ("SELECT n FROM item ORDER BY n", "SELECT n AS other FROM item ORDER BY n ASC", True),
        ("SELECT name FROM item", "SELECT DISTINCT name FROM item", False),
        ("SELECT 1", "SELECT nope", False),
        ("SELECT 1", BOMB, False),
    ],
)
def test_same_result(gold: str, query: str, same: bool, lite: str) -> None:
    assert same_result(lite, gold, query, timeout_s=0.2) is same


def test_gold_query_that_fails_raises(lite: str) -> None:
    with pytest.raises(QueryError, match="nope"):
        same_result(lite, "SELECT nope", "SELECT 1")


def test_scorer_tells_wrong_from_slow(lite: str) -> None:
    score = build(lite_scorer(lite, timeout_s=0.2))
    good = score([], "SELECT name, n FROM item")
    assert (good.value, good.status) == (1.0, "ok")
    assert good.detail == {"rows": 3, "preview": ["('tea', 1)", "('Käse', 2)", "('tea', 3)"]}
    assert good.answer_key == score([], "SELECT name, n FROM item ORDER BY name, n").answer_key
    wrong = score([], "SELECT nope FROM item")
    assert (wrong.value, wrong.status, wrong.answer_key) == (0.0, "ok", None)
    assert "nope" in str(wrong.detail["error"])
    slow = score([], BOMB)
    assert (slow.value, slow.status) == (None, "timeout")
    long = score([], "SELECT hex(zeroblob(5000)) FROM item")
    assert [len(line) for line in long.detail["preview"]] == [200, 200, 200]  # type: ignore[attr-defined]


def test_machine_trouble_is_none_not_zero(tmp_path: Path) -> None:
    path = tmp_path / "broken.db"
    sqlite3.connect(path).execute("CREATE TABLE t (x)").connection.close()
    score = build(lite_scorer(str(path)))
    assert score([], "SELECT x FROM t").value == 1.0
    path.write_bytes(b"a disk that went bad" * 200)
    broken = score([], "SELECT x FROM t")
    assert (broken.value, broken.status) == (None, "error")
    assert "not a database" in str(broken.detail["error"])


def test_scorer_pickles_and_works_in_another_thread(lite: str) -> None:
    score = build(lite_scorer(lite))
    assert score([], "SELECT 1").value == 1.0
    copy = pickle.loads(pickle.dumps(score))
    with ThreadPoolExecutor(1) as pool:  # a SQLite connection refuses any thread but its own
        assert pool.submit(copy, [], "SELECT 1").result() == score([], "SELECT 1")
    error = pickle.loads(pickle.dumps(QueryError("slow", "timeout")))
    assert (str(error), error.status) == ("slow", "timeout")


def test_replaced_database_is_read_again(tmp_path: Path) -> None:
    for value in (1, 2):
        fresh = tmp_path / f"fresh{value}.db"
        with sqlite3.connect(fresh) as made:
            made.execute("CREATE TABLE t AS SELECT ? AS x", (value,))
        made.close()
        fresh.replace(tmp_path / "t.db")
        assert run(str(tmp_path / "t.db"), "SELECT x FROM t") == [(value,)]


def test_build_refuses_what_cannot_run(tmp_path: Path, duck: str) -> None:
    with pytest.raises(ValueError, match=r"missing\.db.*not a file"):
        build(lite_scorer(str(tmp_path / "missing.db")))
    with pytest.raises(ValueError, match="does not open as sqlite"):
        build(lite_scorer(duck))


def test_version_follows_spec_and_database(tmp_path: Path) -> None:
    path = tmp_path / "v.db"
    path.write_bytes(b"one")
    first = version(lite_scorer(str(path)))
    assert len(first) == 12 and first == version(lite_scorer(str(path)))
    assert first != version(lite_scorer(str(path), max_rows=5))
    path.write_bytes(b"two")
    assert first != version(lite_scorer(str(path)))
