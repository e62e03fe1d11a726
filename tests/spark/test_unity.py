"""Unity Catalog's SQL without Unity Catalog: read by Spark's parser where it knows the words, run where Delta does."""

from collections.abc import Iterator

import pytest
from pyspark.errors import ParseException
from pyspark.sql import SparkSession

from taolake import lake, unity
from taolake.config import Unity
from taolake.lake import Lake
from tests.bundle.resolve import bundle

SCHEMA = "spark_catalog.tuning"


@pytest.fixture(scope="module")
def here(spark: SparkSession) -> Iterator[Lake]:
    spark.sql(f"CREATE DATABASE {SCHEMA}")
    yield Lake(spark, SCHEMA)
    spark.sql(f"DROP DATABASE {SCHEMA} CASCADE")


def parses(spark: SparkSession, statement: str) -> bool:
    try:
        spark._jsparkSession.sessionState().sqlParser().parsePlan(statement)
    except ParseException:
        return False
    return True


def test_spark_s_parser_reads_all_but_tags_and_masks(spark: SparkSession) -> None:
    statements = unity.statements(lake.TABLES, "main.t", Unity(unmasked="stewards"))
    unread = [s for s in statements if not parses(spark, s)]
    assert len(statements) - len(unread) == len(lake.TABLES) + 3
    assert unread
    assert all(" SET TAGS (" in s or " SET MASK " in s for s in unread)


def test_a_table_made_by_it_is_the_one_stages_write(spark: SparkSession, here: Lake) -> None:
    """Delta here knows no keys: without them the statement runs, and what it makes takes a stage's rows."""
    for table in (lake.PROMPTS, lake.ROUNDS):
        here.execute([table.create(here.name(table), keyed=False)] * 2)
        made = spark.table(f"{SCHEMA}.{table.name}").schema
        assert [(f.name, f.dataType, f.metadata.get("comment")) for f in made] == [
            (f.name, f.dataType, f.metadata["comment"]) for f in table.schema()
        ]
        detail = spark.sql(f"DESCRIBE DETAIL {SCHEMA}.{table.name}").first()
        assert detail is not None
        assert detail["clusteringColumns"] == list(table.key)
        assert detail["description"] == table.comment
    rows = spark.createDataFrame(
        [(p, "t", [("user", said)], "train", 1, "s", None, p, None) for p, said in (("p1", "hi"), ("p2", "ho"))],
        lake.PROMPTS.schema(),
    )
    here.insert_new(lake.PROMPTS, rows)
    here.insert_new(lake.PROMPTS, rows)
    assert sorted(row["prompt_id"] for row in here.read(lake.PROMPTS).collect()) == ["p1", "p2"]
    here.append_once(lake.PROMPTS, rows.where("prompt_id = 'p1'"), "c1")
    here.append_once(lake.PROMPTS, rows.where("prompt_id = 'p1'"), "c1")
    assert here.read(lake.PROMPTS).count() == 3
    assert here.version(lake.PROMPTS) >= 2


def test_a_key_may_not_be_null(spark: SparkSession, here: Lake) -> None:
    nobody = spark.createDataFrame(
        [(None, "t", [("user", "hi")], "train", 1, "s", None, "c", None)], lake.PROMPTS.schema()
    )
    with pytest.raises(Exception, match="prompt_id"):
        here.append_once(lake.PROMPTS, nobody, "c2")


def test_the_alerts_of_the_bundle_ask_what_tables_have(spark: SparkSession, here: Lake) -> None:
    """Empty tables raise nothing: the number that is watched is 0, or there is no row."""
    for table in (lake.ROUNDS, lake.MONITORS, lake.RELEASES):  # the last by a column whose name is a word of SQL
        here.execute([table.create(here.name(table), keyed=False)])
    found = bundle("prod")["resources"]["alerts"]
    assert len(found) == 4
    for key, alert in found.items():
        rows = spark.sql(alert["query_text"].replace("main.taolake.", f"{SCHEMA}.")).collect()
        assert [row[alert["evaluation"]["source"]["name"]] for row in rows] in ([], [0]), key
