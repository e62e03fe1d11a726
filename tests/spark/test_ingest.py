"""Ingest: every shape of source gives the same prompts, and no line gets lost."""

import csv
import json
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from taolake import ids, lake, stages
from taolake.lake import Lake
from tests.projects import fake_project, open_round, write_log

QUESTIONS = [f"question {i}" for i in range(20)]


def ingested(spark: SparkSession, folder: Path, **source: str):  # type: ignore[no-untyped-def]
    project = fake_project(folder, ingest={"holdout": 0.3, "sources": [source]})
    round_ = open_round(spark, project)
    outcome, _ = stages.run(round_, "ingest")
    return round_, outcome


def test_counts_add_up_and_the_refused_are_found(spark: SparkSession, tmp_path: Path) -> None:
    path = write_log(
        tmp_path / "log.jsonl", [*QUESTIONS, *QUESTIONS[:5]], b"{bad", b"\xff\xfe", b'{"messages": []}', b""
    )
    round_, outcome = ingested(spark, tmp_path, format="jsonl", path=str(path))
    found = {k: outcome.detail[k] for k in ("in", "kept", "folded", "quarantined")}
    assert found == {"in": 29, "kept": 20, "folded": 5, "quarantined": 4}
    refused = {r["source_id"]: r["reason"] for r in round_.lake.read(lake.QUARANTINE).collect()}
    assert set(refused) == {f"{path}:{n}" for n in (26, 27, 28, 29)}
    assert "not UTF-8" in refused[f"{path}:27"]
    seen = {r["messages"][0]["content"]: r["seen"] for r in round_.lake.read(lake.PROMPTS).collect()}
    assert seen == {q: 2 if q in QUESTIONS[:5] else 1 for q in QUESTIONS}


def test_ids_and_splits_are_the_pure_functions(spark: SparkSession, tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.jsonl", QUESTIONS)
    round_, _ = ingested(spark, tmp_path, format="jsonl", path=str(path))
    for row in round_.lake.read(lake.PROMPTS).collect():
        prompt = ids.prompt_id("count", [m.asDict() for m in row["messages"]])
        assert row["prompt_id"] == prompt
        assert row["split"] == ids.split_of(prompt, 7, 0.3)


@pytest.mark.parametrize("shape", ["csv", "parquet", "delta", "inference_log", "payload table"])
def test_every_shape_gives_the_same_prompts(spark: SparkSession, tmp_path: Path, shape: str) -> None:
    path = tmp_path / "source"
    rows = [(f"r{i}", q) for i, q in enumerate(QUESTIONS)]
    if shape == "csv":
        path = tmp_path / "source.csv"
        with path.open("w", newline="") as handle:
            csv.writer(handle).writerows([("request_id", "messages"), *rows])
    elif shape in ("parquet", "delta"):
        spark.createDataFrame(rows, "request_id STRING, messages STRING").write.format(shape).save(str(path))
    else:
        payloads = [(r, json.dumps({"messages": [{"role": "user", "content": q}]}), "{}", 200) for r, q in rows]
        schema = "databricks_request_id STRING, request STRING, response STRING, status_code INT"
        frame = spark.createDataFrame(payloads, schema)
        if shape == "inference_log":
            path = tmp_path / "payload.jsonl"
            path.write_text("".join(json.dumps(row.asDict()) + "\n" for row in frame.collect()))
        else:
            frame.write.format("delta").save(str(path))
    kind = "inference_log" if shape == "payload table" else shape
    round_, outcome = ingested(spark, tmp_path, format=kind, path=str(path))
    assert outcome.detail["kept"] == len(QUESTIONS)
    found = {(r["messages"][0]["content"], r["request_id"]) for r in round_.lake.read(lake.PROMPTS).collect()}
    assert found == {(q, r) for r, q in rows}


def test_new_lines_move_no_old_prompt(spark: SparkSession, tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.jsonl", QUESTIONS[:10])
    round_, _ = ingested(spark, tmp_path, format="jsonl", path=str(path))
    before = {r["prompt_id"]: r["split"] for r in round_.lake.read(lake.PROMPTS).collect()}
    write_log(path, QUESTIONS)
    outcome, ran = stages.run(round_, "ingest")
    after = {r["prompt_id"]: r["split"] for r in round_.lake.read(lake.PROMPTS).collect()}
    assert ran
    assert outcome.detail["kept"] == 20
    assert before.items() <= after.items()


def test_a_second_run_writes_nothing(spark: SparkSession, tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.jsonl", QUESTIONS)
    round_, _ = ingested(spark, tmp_path, format="jsonl", path=str(path))
    versions = [round_.lake.version(table) for table in lake.TABLES]
    _, ran = stages.run(round_, "ingest")
    assert not ran
    assert [round_.lake.version(table) for table in lake.TABLES] == versions


def test_a_log_of_nothing_but_errors_says_so(spark: SparkSession, tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.jsonl", [], b"{bad", b"[]")
    spark.catalog.clearCache()
    with pytest.raises(ValueError, match="no usable prompt among 2 lines"):
        ingested(spark, tmp_path, format="jsonl", path=str(path))
    assert spark._jsparkSession.sharedState().cacheManager().isEmpty(), "a stage that fails keeps nothing in memory"
    assert Lake(spark, str(tmp_path / "lake")).read(lake.QUARANTINE).count() == 2, "where the message sends its reader"


def test_a_prompt_shown_to_reviewers_is_never_trained_on(spark: SparkSession, tmp_path: Path) -> None:
    """An explicit split wins over the automatic one, whichever source comes first."""
    log, review = write_log(tmp_path / "log.jsonl", QUESTIONS), write_log(tmp_path / "review.jsonl", QUESTIONS[:4])
    sources = [{"format": "jsonl", "path": str(log)}, {"format": "jsonl", "path": str(review), "split": "review"}]
    round_ = open_round(spark, fake_project(tmp_path, ingest={"holdout": 0.3, "sources": sources}))
    stages.run(round_, "ingest")
    split = {r["messages"][0]["content"]: r["split"] for r in round_.lake.read(lake.PROMPTS).collect()}
    assert [split[q] for q in QUESTIONS[:4]] == ["review"] * 4
    assert "review" not in {split[q] for q in QUESTIONS[4:]}


def test_files_of_one_name_in_two_folders_do_not_collide(spark: SparkSession, tmp_path: Path) -> None:
    paths = []
    for name in "ab":
        (tmp_path / name).mkdir()
        paths.append(write_log(tmp_path / name / "log.jsonl", [f"from {name}"], b"{bad"))
    sources = [{"format": "jsonl", "path": str(path)} for path in paths]
    round_ = open_round(spark, fake_project(tmp_path, ingest={"holdout": 0.3, "sources": sources}))
    stages.run(round_, "ingest")
    assert {r["source_id"] for r in round_.lake.read(lake.QUARANTINE).collect()} == {f"{path}:2" for path in paths}
