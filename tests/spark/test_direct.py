"""Rows written without Spark are the same table to Spark, and the other way round; reactions become choices."""

import datetime as dt
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from taolake import lake
from taolake.ids import user_id
from taolake.lake import Lake, direct
from taolake.stages import label
from tests.projects import fake_project, open_round

AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def said(request: str, value: float, at: dt.datetime = AT) -> dict[str, Any]:
    same = {"source": "thumb:kim", "kind": "thumb", "text": None, "requester": "kim"}
    return {"request_id": request, "value": value, "at": at, **same}


def test_spark_and_delta_rs_write_one_table(spark: SparkSession, tmp_path: Path) -> None:
    """Made by delta-rs with the comments that Spark gives, then written by both, which know each other's chunks."""
    where = str(tmp_path / "lake")
    assert direct.append_once(where, lake.REACTIONS, [said("a", 1.0)], "c1")
    table = Lake(spark, where)
    schema = lake.REACTIONS.schema()
    assert table.read(lake.REACTIONS).schema == schema
    table.append_once(lake.REACTIONS, spark.createDataFrame([said("b", 1.0)], schema), "c2")
    assert not direct.append_once(where, lake.REACTIONS, [said("c", 1.0)], "c2")
    assert not direct.append_once(where, lake.REACTIONS, [said("c", 1.0)], "c1")
    later = AT + dt.timedelta(seconds=1)
    assert direct.append_once(where, lake.REACTIONS, [said("b", -1.0, later), said("d", 1.0)], "c3")
    rows = {(r["request_id"], r["value"], r["at"].timestamp()) for r in table.read(lake.REACTIONS).collect()}
    first = AT.timestamp()
    assert rows == {("a", 1.0, first), ("b", 1.0, first), ("b", -1.0, later.timestamp()), ("d", 1.0, first)}


def test_delta_rs_appends_to_a_table_that_spark_made(spark: SparkSession, tmp_path: Path) -> None:
    table = Lake(spark, str(tmp_path / "lake"))
    assert not table.exists(lake.PAYLOADS)
    assert table.read(lake.PAYLOADS).count() == 0
    assert table.exists(lake.PAYLOADS)
    row: dict[str, Any] = dict.fromkeys(name for name, _, _ in lake.PAYLOADS.fields())
    row |= {"databricks_request_id": "a", "request_time": AT, "request_date": AT.date(), "logging_error_codes": ["X"]}
    direct.append_once(table.location, lake.PAYLOADS, [row], "c1")
    (found,) = table.read(lake.PAYLOADS).collect()
    assert {k: v for k, v in found.asDict().items() if v is not None and k != "request_time"} == {
        "databricks_request_id": "a", "request_date": AT.date(), "logging_error_codes": ["X"],
    }  # fmt: skip


def test_reactions_in_production_become_choices_once(spark: SparkSession, tmp_path: Path) -> None:
    round_ = open_round(spark, fake_project(tmp_path))
    nothing: dict[str, Any] = dict.fromkeys(name for name, _, _ in lake.INFERENCE_LOG.fields())

    def asked(request: str, question: str, answer: str, minute: int, user: str, **more: Any) -> dict[str, Any]:
        turns = [{"role": "user", "content": question}]
        when = AT + dt.timedelta(minutes=minute)
        return {**nothing, "request_id": request, "logged_at": when, "messages": turns, "answer": answer,
                "user_id": user_id(user), "status_code": 200, **more}  # fmt: skip

    log = [
        asked("r1", "q1", "first try", 0, "kim", share=0.9),
        asked("r2", "q1", "second try", 1, "kim", share=0.9),
        asked("r3", "q1", "somebody else's", 0, "lee", share=0.1),
        asked("r4", "q2", "secret", 0, "lee", consent=False),
        asked("r5", "q2", "old", 0, "lee", expires_at=AT),
        asked("r6", "q2", "plain", 0, "lee", share=0.1),
    ]

    def felt(request: str, kind: str, value: float | None, text: str | None, user: str) -> dict[str, Any]:
        source = f"{kind}:{user}"
        return {"request_id": request, "source": source, "kind": kind, "value": value, "text": text,
                "user_id": user_id(user), "at": AT}  # fmt: skip

    feedback = [
        felt("r1", "regenerate", -1.0, None, "kim"),
        felt("r2", "thumb", 1.0, None, "kim"),
        felt("r3", "thumb", -1.0, None, "lee"),
        felt("r4", "edit", None, "better", "lee"),
        felt("r5", "edit", None, "better", "lee"),
        felt("r6", "edit", None, "better", "lee"),
        felt("r6", "thumb", 1.0, None, "lee"),
    ]
    for table, rows in ((lake.INFERENCE_LOG, log), (lake.FEEDBACK, feedback)):
        round_.lake.append_once(table, spark.createDataFrame(rows, table.schema()), "all")
    outcome = label.label(round_)
    found = {
        (r["kind"], r["annotator"], r["chosen_text"], r["rejected_text"]): r["strength"]
        for r in round_.lake.read(lake.PREFERENCES).collect()
    }
    kim, lee = user_id("kim"), user_id("lee")
    # The version served to one in ten weighs 10, the other 1 / 0.9; strengths are parts of the larger.
    assert found == {
        ("pair", kim, "second try", "first try"): round(0.25 / 0.9 / 10, 6),
        ("thumb", kim, "second try", "somebody else's"): round(0.5 / 0.9 / 10, 6),
        ("thumb", lee, "second try", "somebody else's"): 0.5,
        ("edit", lee, "better", "plain"): 1.0,
    }
    assert outcome.rows == 4
    assert (outcome.detail["reactions"], outcome.detail["reactions_unused"]) == (5, 1)
    assert label.label(round_).rows == 0
