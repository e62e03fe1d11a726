"""The three ways to write a table: each is safe to repeat, and the schema is the one in `taolake.lake.tables`."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from taolake import lake
from taolake.lake import Lake


def pairs(spark: SparkSession, *rows: tuple[str, str, str, str]):  # type: ignore[no-untyped-def]
    given = ("prompt_id", "chosen", "rejected", "annotator")
    blank = dict.fromkeys(lake.PREFERENCES.schema().names)
    made = [blank | dict(zip(given, row, strict=True)) for row in rows]
    return spark.createDataFrame(made, lake.PREFERENCES.schema())


@pytest.fixture
def here(spark: SparkSession, tmp_path: Path) -> Lake:
    return Lake(spark, str(tmp_path))


def test_a_table_never_written_is_empty_and_has_its_schema(here: Lake) -> None:
    frame = here.read(lake.CANDIDATES)
    assert frame.count() == 0
    wanted = lake.CANDIDATES.schema()
    assert frame.schema.names == wanted.names
    assert [f.dataType for f in frame.schema] == [f.dataType for f in wanted]
    assert frame.schema["text"].metadata["comment"] == wanted["text"].metadata["comment"]


def test_append_once_commits_a_chunk_once(here: Lake, spark: SparkSession) -> None:
    rows = pairs(spark, ("p", "a", "b", "x"))
    here.append_once(lake.PREFERENCES, rows, "chunk-1")
    here.append_once(lake.PREFERENCES, rows, "chunk-1")
    assert here.read(lake.PREFERENCES).count() == 1
    here.append_once(lake.PREFERENCES, rows, "chunk-2")
    assert here.read(lake.PREFERENCES).count() == 2


def test_chunks_may_arrive_in_any_order(here: Lake, spark: SparkSession) -> None:
    """One transaction id per chunk: with one per run, Delta would drop the lower version that comes late."""
    for chunk in ("9", "1", "5"):
        here.append_once(lake.PREFERENCES, pairs(spark, (chunk, "a", "b", "x")), chunk)
    assert {r["prompt_id"] for r in here.read(lake.PREFERENCES).collect()} == {"9", "1", "5"}


def test_insert_new_leaves_known_keys_alone(here: Lake, spark: SparkSession) -> None:
    refused = "stage STRING, source_id STRING, reason STRING, excerpt STRING"
    here.insert_new(lake.QUARANTINE, spark.createDataFrame([("ingest", "f:1", "first", "")], refused))
    here.insert_new(
        lake.QUARANTINE, spark.createDataFrame([("ingest", "f:1", "other", ""), ("ingest", "f:2", "b", "")], refused)
    )
    assert {r["source_id"]: r["reason"] for r in here.read(lake.QUARANTINE).collect()} == {"f:1": "first", "f:2": "b"}


def test_merge_updates_by_key(here: Lake, spark: SparkSession) -> None:
    columns = lake.PROMPTS.columns
    from pyspark.sql.types import StructType

    schema = StructType.fromDDL(columns)
    here.merge(
        lake.PROMPTS, spark.createDataFrame([("p", "t", [("user", "a")], "train", 1, "f:1", "r", "p", None)], schema)
    )
    here.merge(
        lake.PROMPTS, spark.createDataFrame([("p", "t", [("user", "a")], "train", 3, "f:1", "r", "p", None)], schema)
    )
    assert [(r["prompt_id"], r["seen"]) for r in here.read(lake.PROMPTS).collect()] == [("p", 3)]


def row_of(stage: str, state: str) -> dict[str, Any]:
    given = {"round": 1, "stage": stage, "state": state, "reads": {"prompts": 3}, "started_at": datetime.now(UTC)}
    return dict.fromkeys(lake.ROUNDS.schema().names) | given


def test_single_rows_are_the_same_with_and_without_spark(here: Lake, spark: SparkSession) -> None:
    """delta-rs and Spark write one table in turn, and each reads what the other wrote."""
    written = row_of("it's", "running")
    here.put(lake.ROUNDS, written)
    here.merge(lake.ROUNDS, spark.createDataFrame([row_of("score", "running")], lake.ROUNDS.schema()))
    here.put(lake.ROUNDS, written | {"state": "done"})
    here.put(lake.ROUNDS, row_of("score", "failed"))
    found = here.read(lake.ROUNDS).collect()
    assert {row["stage"]: row["state"] for row in found} == {"it's": "done", "score": "failed"}
    assert here.rows(lake.ROUNDS, stage="it's", round=1) == [written | {"state": "done"}]
    assert here.rows(lake.ROUNDS, stage="nobody's") == []
    assert here.version(lake.ROUNDS) == here._delta(lake.ROUNDS).history(1).collect()[0]["version"] == 4


def test_single_rows_of_several_writers_are_all_there(here: Lake) -> None:
    stages = [f"stage {n}" for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda stage: here.put(lake.ROUNDS, row_of(stage, "done")), stages))
    assert sorted(row["stage"] for row in here.rows(lake.ROUNDS)) == stages


def test_a_missing_or_unknown_column_is_named(here: Lake, spark: SparkSession) -> None:
    rows = pairs(spark, ("p", "a", "b", "x")).drop("annotator").withColumnRenamed("rejected", "reject")
    with pytest.raises(ValueError, match=r"missing columns \['annotator', 'rejected'\], unknown columns \['reject'\]"):
        here.append_once(lake.PREFERENCES, rows, "c")


def test_older_versions_can_be_read(here: Lake, spark: SparkSession) -> None:
    here.append_once(lake.PREFERENCES, pairs(spark, ("p", "a", "b", "x")), "1")
    before = here.version(lake.PREFERENCES)
    here.append_once(lake.PREFERENCES, pairs(spark, ("q", "a", "b", "x")), "2")
    assert here.version(lake.PREFERENCES) == before + 1
    assert here.read(lake.PREFERENCES, before).count() == 1


def test_content_id_is_of_the_set_of_rows(here: Lake, spark: SparkSession) -> None:
    one, two = ("p", "a", "b", "x"), ("q", "c", "d", "x")
    key = lake.PREFERENCES.key
    assert here.content_id(pairs(spark, one, two), *key) == here.content_id(pairs(spark, two, one).repartition(3), *key)
    assert here.content_id(pairs(spark, one), *key) != here.content_id(pairs(spark, two), *key)
    assert here.content_id(pairs(spark, one).limit(0), *key) != here.content_id(pairs(spark, one), *key)


def test_a_catalog_location_gives_three_level_names(spark: SparkSession) -> None:
    here = Lake(spark, "main.tuning")
    assert here.in_catalog
    assert here.name(lake.PROMPTS) == "main.tuning.prompts"
    assert not Lake(spark, "build/a.b").in_catalog
