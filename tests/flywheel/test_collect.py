"""Collect: every shape at once, batch and stream alike, nothing lost, nothing twice, no personal data downstream."""

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql import SparkSession

from taolake import ids, lake, stages
from taolake.curation import logs
from taolake.lake import Lake
from taolake.stages import ingest
from taolake.stages.collect import _ENTITY, _endpoint, _named, collect
from taolake.stages.round import Round
from tests.flywheel.rows import SHAPES, ai_gateway, reaction
from tests.flywheel.traffic import request, write
from tests.projects import fake_project, open_round

LOGGED = {"holdout": 0.3, "sources": [{"format": "inference_log", "path": "inference_log"}]}
PLANTED = ("jo@example.org", "415-555-0132", "4111 1111 1111 1111")
BROKEN = [b"{oops jo@example.org", b"\xff\xfe", json.dumps(ai_gateway(9, request=None)).encode()]


def lines() -> list[bytes]:
    """Seven shapes, a duplicate, one with and one without its answer, a reaction, and three that cannot be read."""
    asked = json.dumps({"messages": [{"role": "user", "content": f"I am {PLANTED[0]}, card {PLANTED[2]}"}]})
    rows = [*(make() for make in SHAPES.values()), ai_gateway(), ai_gateway(2, request=asked, response=None)]
    rows += [ai_gateway(2, request=asked), reaction(), reaction(value=-1.0, at="2026-11-20T10:06:00Z")]
    return [*(json.dumps(row).encode() for row in rows), *BROKEN]


def written(folder: Path, *parts: list[bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, part in enumerate(parts):
        (folder / f"{number}.jsonl").write_bytes(b"\n".join(part) + b"\n")
    return folder


def opened(spark: SparkSession, folder: Path, log: Path) -> Round:
    return open_round(spark, fake_project(folder, collect={"sources": [{"path": str(log)}], "retention_days": 90}))


def tables(round_: Round) -> list[list[Any]]:
    return [
        sorted(map(repr, round_.lake.read(table).collect()))
        for table in (lake.INFERENCE_LOG, lake.FEEDBACK, lake.QUARANTINE)
    ]


def test_batch_and_stream_give_the_same_tables_and_every_line_is_accounted_for(
    spark: SparkSession, tmp_path: Path
) -> None:
    log = written(tmp_path / "log", lines()[:9], lines()[9:])
    batch, stream = (opened(spark, tmp_path / name, log) for name in ("batch", "stream"))
    outcome = collect(batch, stream=False)
    found = {k: outcome.detail[k] for k in ("lines", "in", "kept", "folded", "quarantined")}
    assert found == {"lines": 15, "in": 15, "kept": 9, "folded": 3, "quarantined": 3}
    streamed = collect(stream)
    assert streamed.detail["in"] == streamed.detail["kept"] + streamed.detail["folded"] + streamed.detail["quarantined"]
    assert tables(stream) == tables(batch)
    assert [len(rows) for rows in tables(batch)] == [8, 6, 3]

    calls = {r["request_id"]: r for r in batch.lake.read(lake.INFERENCE_LOG).collect()}
    assert calls["gw-2"]["answer"] is not None, "of two rows with one id the one with an answer stays"
    assert calls["gw-2"]["messages"][0]["content"] == "I am <EMAIL_1>, card <CARD_1>"
    assert calls["gw-1"]["user_id"] == ids.user_id("jo@example.org")
    assert (calls["ms-1"]["consent"], calls["gw-1"]["consent"]) == (False, None)
    said = {(r["request_id"], r["kind"]): r for r in batch.lake.read(lake.FEEDBACK).collect()}
    assert said["gw-1", "thumb"]["value"] == -1.0, "of two words of one person the last counts"
    everything = repr(tables(batch)) + repr(tables(stream))
    assert [value for value in PLANTED if value in everything] == []
    assert "<EMAIL_1>" in everything

    again = collect(batch, stream=False)
    assert (again.rows, again.detail["in"]) == (0, 15)
    (log / "2.jsonl").write_bytes(json.dumps(ai_gateway(3)).encode())
    more = collect(stream)
    assert (more.rows, more.detail["in"]) == (1, 1), "a stream reads what is new"


def test_what_we_served_ourselves_is_collected_and_learned_from_if_nobody_objects(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = fake_project(tmp_path, ingest={**LOGGED, "curate": {}})
    round_ = open_round(spark, project)
    asked = [("a", {}), ("b", {"consent": "no"}), ("c", {"expires_at": "2020-01-01"}), ("d", {"consent": "yes"})]
    rows = [
        {
            "databricks_request_id": name,
            "status_code": 200,
            "request": json.dumps({"messages": [{"role": "user", "content": f"what is {name}?"}], "metadata": meta}),
        }
        for name, meta in asked
    ]
    schema = lake.PAYLOADS.schema()
    frame = spark.createDataFrame([{**dict.fromkeys(schema.names), **row} for row in rows], schema)
    Lake(spark, project.lake).append_once(lake.PAYLOADS, frame, "1")
    assert collect(round_).detail["kept"] == 4
    really = Lake._merge

    def once_the_log_is_gone(self: Lake, *given: Any) -> None:
        for file in (Path(project.lake) / "inference_log").glob("*.parquet"):
            file.unlink()
        really(self, *given)

    # The log is read once: what is written comes from memory, and never sees the files again.
    monkeypatch.setattr(Lake, "_merge", once_the_log_is_gone)
    outcome, _ = stages.run(round_, "ingest")
    assert outcome.detail["kept"] == 2
    prompts = round_.lake.read(lake.PROMPTS).collect()
    assert {(r["request_id"], r["source"]) for r in prompts} == {(n, f"inference_log#{n}") for n in "ad"}


@pytest.mark.parametrize(("required", "allowed"), [(False, {"v1-0", "v1-1"}), (True, {"v1-1"})])
def test_silence_is_a_yes_unless_a_yes_is_required(
    spark: SparkSession, tmp_path: Path, required: bool, allowed: set[str]
) -> None:
    """What prompts are made of, reactions are learned from and rounds are started by."""
    round_ = open_round(spark, fake_project(tmp_path, ingest={"curate": {"require_consent": required}, **LOGGED}))
    over = {"expires_at": datetime(2020, 1, 1, tzinfo=UTC), "consent": True}
    words: list[dict[str, Any]] = [{}, {"consent": True}, {"consent": False}, over]
    write(round_.lake, spark, [request(number, "v1", "3", **said) for number, said in enumerate(words)])
    assert {row["request_id"] for row in ingest.allowed(round_).collect()} == allowed


def test_the_endpoint_s_own_table_is_read_once_it_is_there(tmp_path: Path) -> None:
    project = fake_project(tmp_path, serve={"endpoint": "shop-chat"})
    there: set[str] = set()
    spark = SimpleNamespace(catalog=SimpleNamespace(tableExists=there.__contains__))
    at: Any = SimpleNamespace(project=project, lake=SimpleNamespace(in_catalog=True, location="main.shop", spark=spark))
    assert _endpoint(at) == []
    there.add("main.shop.shop_chat_payload")
    assert [log.path for log in _endpoint(at)] == ["main.shop.shop_chat_payload"]
    at.lake.in_catalog = False
    assert _endpoint(at) == []


def test_on_databricks_the_log_s_ids_become_the_names_that_a_canary_knows(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The platform's table has a row for every change of an entity; an id that it does not know stays."""
    rows = [json.dumps(ai_gateway(number, served_entity_id=f"e{number}")) for number in (1, 2)]
    payloads = spark.read.json(spark.createDataFrame([(row,) for row in rows], "value STRING"))
    columns = f"{_ENTITY} STRING, served_entity_name STRING, n INT"
    spark.createDataFrame([("e1", "tuned-7", 1), ("e1", "tuned-7", 2)], columns).createOrReplaceTempView("names")
    monkeypatch.setattr("taolake.stages.collect._NAMES", "names")
    assert _named(payloads).columns == payloads.columns
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "18.0")
    found = {row["databricks_request_id"]: row.asDict() for row in _named(payloads).collect()}
    calls = {key: logs.read(json.dumps(row, default=str).encode())[0] for key, row in found.items()}
    assert {key: getattr(call, "model", call) for key, call in calls.items()} == {"gw-1": "tuned-7", "gw-2": "e2"}
