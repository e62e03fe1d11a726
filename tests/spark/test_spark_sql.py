"""Generated Spark SQL: what runs, what is refused before it runs, limits, and a session that is as it was."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from taolake.config import SqlScorer
from taolake.sandbox.statement import QueryError
from taolake.stages.spark_sql import run_query, scores

SCHEMA = "taolake_spark_sql"


@pytest.fixture(scope="module")
def shop(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    folder = tmp_path_factory.mktemp("shop")
    spark.sql(f"CREATE DATABASE {SCHEMA} LOCATION '{folder}'")
    spark.sql(
        f"CREATE TABLE {SCHEMA}.item USING parquet AS SELECT * FROM VALUES "
        "('tea', 2.0D, 1, DATE '2024-01-05'), ('salt', 0.1D, 2, NULL), ('tea', 2.0D, 3, DATE '2024-02-10') "
        "AS t(name, price, n, day)"
    )
    spark.udf.register("evil_python", lambda: "x")
    yield spark
    spark.sql("DROP TEMPORARY FUNCTION evil_python")
    spark.sql(f"DROP DATABASE {SCHEMA} CASCADE")


def run(spark: SparkSession, sql: str, timeout_s: float = 60.0, max_rows: int = 100) -> list[tuple[object, ...]]:
    return run_query(spark, SCHEMA, sql, timeout_s=timeout_s, max_rows=max_rows)


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT name, sum(n) FROM item GROUP BY name ORDER BY name", [("salt", 2), ("tea", 4)]),
        (f"SELECT n FROM {SCHEMA}.item WHERE day IS NULL", [(2,)]),
        ("WITH a AS (SELECT max(n) AS m FROM item) SELECT m FROM a", [(3,)]),
        ("SELECT n FROM item WHERE n = (SELECT max(n) FROM item)", [(3,)]),
        ("SELECT count(*) FROM item a JOIN item b ON a.name = b.name", [(5,)]),
        ("SELECT n FROM item UNION SELECT 9 ORDER BY 1 DESC LIMIT 2", [(9,), (3,)]),
        ("SELECT n, row_number() OVER (PARTITION BY name ORDER BY n DESC) FROM item WHERE n > 1 ORDER BY n",
         [(2, 1), (3, 1)]),
        ("SELECT name FROM item GROUP BY name HAVING count(*) > 1", [("tea",)]),
        ("SELECT DISTINCT upper(name) FROM item WHERE name LIKE 't%'", [("TEA",)]),
        ("SELECT day, year(day), date_add(day, 1) FROM item WHERE n = 1", [("2024-01-05", 2024, "2024-01-06")]),
        ("SELECT TIMESTAMP '2024-01-05 10:00:00', NULL, X'00FF', array(1, 2), CAST(1.50 AS DECIMAL(9, 2)) = 1.5",
         [("2024-01-05 10:00:00", None, b"\x00\xff", [1, 2], True)]),
        ("SELECT CASE WHEN n BETWEEN 2 AND 3 THEN 'x' ELSE 'y' END FROM item WHERE n IN (1)", [("y",)]),
        ("SELECT x FROM VALUES (1), (2) AS t(x) WHERE x > 1", [(2,)]),
        ("SELECT id FROM range(2)", [(0,), (1,)]),
        ("SELECT e FROM item LATERAL VIEW explode(array(n, n)) AS e WHERE n = 2", [(2,), (2,)]),
        ("SELECT * FROM (SELECT name, n FROM item) PIVOT (sum(n) FOR name IN ('tea', 'salt'))", [(4, 2)]),
        ("SELECT transform(array(1, 2), x -> x + 1)", [([2, 3],)]),
        ("SELECT 1;", [(1,)]),
    ],
)  # fmt: skip
def test_plain_query_gives_its_rows(sql: str, rows: list[tuple[object, ...]], shop: SparkSession) -> None:
    assert run(shop, sql) == rows


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("INSERT INTO item SELECT * FROM item", "'insert'"),
        ("DROP TABLE item", "'drop'"),
        ("CACHE TABLE item", "'cache'"),
        ("SET spark.sql.shuffle.partitions = 1", "'set'"),
        ("SHOW TABLES", "'show'"),
        ("EXPLAIN SELECT 1", "'explain'"),
        ("BEGIN SELECT 1; END", "several|'begin'"),
        ("EXECUTE IMMEDIATE 'DROP TABLE item'", "'execute'"),
        ("SELECT 1; DROP TABLE item", "several"),
        ("WITH a AS (SELECT 1) INSERT INTO item SELECT 'x', 1, 1, NULL", "InsertInto"),
        ("SELECT * FROM csv.`/etc/passwd`", "wanted one of schema"),
        ("SELECT * FROM text.`file:///etc/passwd`", "wanted one of schema"),
        ("SELECT * FROM delta.`/tmp/x`", "wanted one of schema"),
        ("SELECT * FROM `/etc/passwd`", "wanted a name"),
        ("SELECT * FROM default.item", "wanted one of schema"),
        ("SELECT * FROM other.information_schema.tables", "wanted one of schema"),
        ("SELECT n FROM item WHERE EXISTS (SELECT * FROM csv.`/etc/passwd`)", "wanted one of schema"),
        ("WITH a AS (SELECT * FROM csv.`/etc/passwd`) SELECT * FROM a", "wanted one of schema"),
        ("SELECT reflect('java.lang.System', 'getenv', 'PATH')", "'reflect'"),
        ("SELECT java_method('java.lang.System', 'exit', 1)", "'java_method'"),
        ("SELECT try_reflect('java.lang.System', 'getenv')", "'try_reflect'"),
        ("SELECT n FROM item WHERE n IN (SELECT length(reflect('java.lang.System', 'getenv', 'PATH')))", "'reflect'"),
        ("SELECT IDENTIFIER('reflect')('java.lang.System', 'getenv', 'PATH')", "IDENTIFIER"),
        ("SELECT * FROM IDENTIFIER('csv.`/etc/passwd`')", "PlanWithUnresolvedIdentifier|wanted one of schema"),
        ("SELECT input_file_name() FROM item", "'input_file_name'"),
        ("SELECT current_catalog()", "not allowed"),
        ("SELECT evil_python()", "'evil_python'"),
        ("SELECT nope()", "not one of Spark's own"),
        ("SELECT TRANSFORM (n) USING 'cat' AS x FROM item", "ScriptTransformation|wanted a plain"),
        ("SELECT repeat('x', 1000000000)", "'repeat'"),
        ("SELECT explode(sequence(1, 1000000000))", "'sequence'"),
        ("WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r", "RECURSIVE"),
        ("SELECT nope FROM item", "UNRESOLVED_COLUMN"),
        ("SELECT * FROM nope", "TABLE_OR_VIEW_NOT_FOUND"),
        ("SELECT 1 +", "PARSE_SYNTAX_ERROR"),
        ("SELECT 1 / (n - 1) FROM item", "DIVIDE_BY_ZERO"),
        ("SELECT CAST(name AS INT) FROM item", "CAST_INVALID_INPUT"),
        ("SELECT a.id FROM range(1000) a", "more than 100 rows"),
        ("", "nothing"),
    ],
)
def test_refused(sql: str, reason: str, shop: SparkSession) -> None:
    with pytest.raises(QueryError, match=reason) as raised:
        run(shop, sql)
    assert raised.value.status == "error"
    assert run(shop, "SELECT count(*) FROM item") == [(3,)]


def test_slow_query_is_cancelled_and_the_session_is_as_it_was(shop: SparkSession) -> None:
    before = (shop.catalog.currentDatabase(), shop.conf.get("spark.sql.runSQLOnFiles"), threading.active_count())
    started = time.monotonic()
    with pytest.raises(QueryError) as raised:
        run(shop, "SELECT count(*) FROM range(1000000000) a, range(1000000) b WHERE a.id * b.id % 7 = 8", timeout_s=1.0)
    assert raised.value.status == "timeout"
    assert time.monotonic() - started < 20
    assert shop.sparkContext.statusTracker().getActiveJobsIds() == []
    assert set(shop.sparkContext.getJobTags()) == set()
    assert (shop.catalog.currentDatabase(), shop.conf.get("spark.sql.runSQLOnFiles")) == before[:2]
    assert shop.sql("SELECT 1").collect()[0][0] == 1


def test_scores_are_one_an_answer_in_order(shop: SparkSession, tmp_path: Path) -> None:
    spec = SqlScorer.model_validate({"kind": "sql", "name": "runs", "database": SCHEMA, "dialect": "spark"})
    spec = spec.model_copy(update={"timeout_s": 30.0})
    answers = ["SELECT n FROM item", "SELECT nope", "SELECT n FROM item ORDER BY n DESC", "SELECT nope"]
    given = list(scores(shop, spec, iter(answers)))
    assert [(score.value, score.status) for score in given] == [(1.0, "ok"), (0.0, "ok"), (1.0, "ok"), (0.0, "ok")]
    assert given[0].answer_key == next(scores(shop, spec, ["SELECT n + 0 FROM item"])).answer_key
    assert given[0].answer_key != given[2].answer_key
    assert given[1] is given[3]
    with pytest.raises(ValueError, match="not in the catalog"):
        next(scores(shop, spec.model_copy(update={"database": "nowhere"}), ["SELECT 1"]))
