"""Monitoring on local Delta: what is counted, what alarms, and that a window is measured once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from taolake import lake
from taolake.stages import monitor
from taolake.stages.round import Round
from tests.flywheel.traffic import START, request, thumb, write
from tests.projects import fake_project, open_round

DAY = 24 * 60  # minutes, and so requests


def rows_of_two_days() -> list[dict[str, Any]]:
    """Day one: version 1 alone, right. Day two: version 2 as well, which refuses, in German, to longer questions."""
    rows = [request(i, "tuned-1", "select 1") for i in range(60)]
    rows += [request(DAY + i, "tuned-1", "select 1" if i % 2 else "select 2") for i in range(60)]
    odd = [{"role": "user", "content": "Wie viele der Kunden sind nicht aktiv und was kostet das? " * 3}]
    refusal = {"messages": odd, "latency_ms": 900, "finish_reason": "length"}
    rows += [request(DAY + i, "tuned-2", "Sorry, I can't help.", **refusal) for i in range(50)]
    return rows + [request(DAY + 50 + i, "tuned-2", None, status_code=500) for i in range(10)]


@pytest.fixture(scope="module")
def story(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Two days measured; again; then one more request on day two, and measured once more."""
    round_ = open_round(spark, fake_project(tmp_path_factory.mktemp("monitor")))
    said = [thumb(f"tuned-1-{i}", 1.0 if i % 4 else -1.0) for i in range(20)]
    write(round_.lake, spark, rows_of_two_days(), said)
    outcomes = [monitor.monitor(round_), monitor.monitor(round_)]
    first = table(round_)
    write(round_.lake, spark, [request(DAY + 70, "tuned-2", "select 1")])
    outcomes.append(monitor.monitor(round_))
    yield {"round": round_, "outcomes": outcomes, "first": first, "last": table(round_)}


def table(round_: Round) -> dict[tuple[int, str, str], Any]:
    """Rows by day, model and metric."""
    from pyspark.sql import functions as f

    rows = round_.lake.read(lake.MONITORS).withColumn("second", f.unix_timestamp("window_start")).collect()
    return {((r["second"] - int(START.timestamp())) // 86400, r["model"], r["metric"]): r for r in rows}


def test_what_is_counted(story: dict[str, Any]) -> None:
    found = story["first"]
    value = {key: row["value"] for key, row in found.items()}
    assert {(day, model) for day, model, _ in found} == {(0, "tuned-1"), (1, "tuned-1"), (1, "tuned-2")}
    assert value[0, "tuned-1", "requests"] == value[1, "tuned-2", "requests"] == 60
    assert value[1, "tuned-2", "errors"] == pytest.approx(1 / 6)
    assert found[1, "tuned-2", "errors"]["low"] < 1 / 6 < found[1, "tuned-2", "errors"]["high"]
    assert (value[0, "tuned-1", "refusals"], value[1, "tuned-2", "refusals"]) == (0, 1)
    assert value[1, "tuned-2", "truncated"] == 1
    assert (value[0, "tuned-1", "latency_p50_ms"], value[0, "tuned-1", "latency_p95_ms"]) == (104, 109)
    assert (value[0, "tuned-1", "tokens_in"], value[0, "tuned-1", "tokens_out"]) == (600, 240)
    assert (value[0, "tuned-1", "agreement"], value[1, "tuned-2", "agreement"]) == (1, 1)
    assert 0.3 < value[1, "tuned-1", "agreement"] < 0.6
    assert value[0, "tuned-1", "feedback_rate"] == pytest.approx(1 / 3)
    assert value[0, "tuned-1", "feedback"] == pytest.approx(0.5)
    assert value[1, "tuned-1", "feedback"] is None


def test_scorers_that_need_no_engine_read_the_answers(story: dict[str, Any]) -> None:
    found = story["first"]
    assert [found[0, "tuned-1", f"score_{name}"]["value"] for name in ("query", "judge")] == [1, 0]
    half = found[1, "tuned-1", "score_judge"]
    assert half["value"] == 0.5 and 0.3 < half["low"] < 0.5 < half["high"] < 0.7
    assert found[1, "tuned-2", "score_query"]["n"] == 50, "an error has no answer to be read"
    assert (0, "tuned-1", "score_agrees") not in found, "agreement has no group here"


def test_drift_is_held_against_the_first_window(story: dict[str, Any]) -> None:
    found = story["first"]
    for kind in ("task", "length", "language", "answers"):
        assert found[0, "tuned-1", f"psi_{kind}"]["value"] == 0
    assert found[1, "tuned-1", "psi_language"]["value"] == 0
    for kind in ("length", "language", "answers"):
        assert found[1, "tuned-2", f"psi_{kind}"]["low"] > 0.25
    assert found[1, "tuned-2", "psi_task"]["value"] == 0


def test_rules_fire_where_they_should(story: dict[str, Any]) -> None:
    alerts = {key: row["alert"] for key, row in story["first"].items() if row["alert"]}
    assert {(day, model) for day, model, _ in alerts} == {(1, "tuned-2")}
    assert {"errors", "refusals", "psi_language"} <= {metric for _, _, metric in alerts}
    assert alerts[1, "tuned-2", "refusals"] == "refusals 1 is above 0.1"
    assert any(said.endswith("tuned-2: refusals 1 is above 0.1") for said in story["outcomes"][0].detail["alerts"])


def test_only_what_changed_is_measured_again(story: dict[str, Any]) -> None:
    first, again, more = story["outcomes"]
    assert (first.detail["measured"], again.detail["measured"], more.detail["measured"]) == (3, 0, 1)
    assert (first.rows > 0, again.rows) == (True, 0)
    assert (first.detail["scored"], more.detail["scored"]) == (2 * 170, 2)
    same = {key: row for key, row in story["last"].items() if key[:2] != (1, "tuned-2")}
    assert same == {key: row for key, row in story["first"].items() if key[:2] != (1, "tuned-2")}
    assert story["last"][1, "tuned-2", "requests"]["value"] == 61


def test_a_reference_without_requests_is_refused(story: dict[str, Any], spark: SparkSession) -> None:
    round_ = story["round"]
    project = fake_project(Path(round_.project.lake).parent, monitor={"reference": "2025-01-01"})
    with pytest.raises(ValueError, match="wanted a day with requests: the log begins 2026-03-02 and ends 2026-03-03"):
        monitor.monitor(open_round(spark, project))
