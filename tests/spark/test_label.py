"""Choices come into `preferences` from files, tables, MLflow and a reviewer; no record is lost on the way."""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from taolake import lake, stages
from taolake.config import Project
from taolake.stages import label
from taolake.stages.round import Round
from tests.projects import fake_project, open_round, write_log

RECORDS: list[dict[str, Any]] = [
    {"kind": "best_of", "prompt": "q1", "answers": ["a", "b", "c"], "chosen": 1, "annotator": "kim"},
    {"kind": "pair", "prompt": "q1", "chosen": "b", "rejected": "a", "annotator": "kim"},  # said above
    {"kind": "pair", "prompt": "q1", "chosen": "a", "rejected": "b", "annotator": "lee"},
    {"kind": "thumb", "prompt": "q2", "answer": "a", "thumb": "up", "annotator": "kim"},
    {"kind": "thumb", "prompt": "q2", "answer": "b", "thumb": "down", "annotator": "kim"},
    {"kind": "thumb", "prompt": "q2", "answer": "b", "thumb": "down", "annotator": "lee"},  # lone
    {"kind": "thumb", "prompt": "q2", "answer": "a", "thumb": "up", "annotator": "kim"},  # said above
    {"kind": "vote", "prompt": "q3"},
]
COUNTS = {"in": 9, "kept": 4, "folded": 2, "refused": 3}


@pytest.fixture
def round_(spark: SparkSession, tmp_path: Path) -> Round:
    return open_round(spark, fake_project(tmp_path))


def wanted_rows() -> set[tuple[str, str, str, str]]:
    one = {("q1", "b", "a", "kim"), ("q1", "b", "c", "kim"), ("q1", "a", "b", "lee")}
    return one | {("q2", "a", "b", "kim")}


def rows_of(round_: Round) -> set[tuple[str, str, str, str]]:
    rows = round_.lake.read(lake.PREFERENCES).collect()
    assert all(json.loads(r["messages"])[0]["role"] == "user" for r in rows)
    return {
        (json.loads(r["messages"])[-1]["content"], r["chosen_text"], r["rejected_text"], r["annotator"]) for r in rows
    }


def write_jsonl(path: Path) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in RECORDS) + "{broken\n")
    return str(path)


def test_a_file_is_accounted_for_and_read_once(round_: Round, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "said.jsonl")
    outcome = label.import_choices(round_, source)
    assert {key: outcome.detail[key] for key in COUNTS} == COUNTS
    assert (outcome.rows, outcome.detail["pairs"]) == (4, 4)
    assert {"best_of_rows": 2, "pair_rows": 1, "thumb_rows": 1}.items() <= outcome.detail.items()
    assert rows_of(round_) == wanted_rows()
    refused = {r["source_id"]: r["reason"] for r in round_.lake.read(lake.QUARANTINE).collect()}
    assert {place.rpartition(":")[2] for place in refused} == {"6", "8", "9"}
    assert round_.lake.read(lake.QUARANTINE).where("stage != 'label'").count() == 0
    again = label.import_choices(round_, source)
    assert (again.rows, again.detail["kept"], again.detail["folded"]) == (0, 0, 6)
    assert round_.lake.read(lake.QUARANTINE).count() == 3


def test_rows_of_one_choice_share_it(round_: Round, tmp_path: Path) -> None:
    label.import_choices(round_, write_jsonl(tmp_path / "said.jsonl"))
    groups = round_.lake.read(lake.PREFERENCES).groupBy("choice", "kind").count().collect()
    assert sorted((r["count"], r["kind"]) for r in groups) == [(1, "pair"), (1, "thumb"), (2, "best_of")]


@pytest.mark.parametrize("form", ["csv", "parquet", "delta"])
def test_other_forms_say_the_same(round_: Round, tmp_path: Path, form: str) -> None:
    """A CSV has text in every cell; a table has null where a record has no such field."""
    columns = sorted({key for record in RECORDS for key in record})
    as_text = [
        tuple(None if (v := r.get(c)) is None else v if isinstance(v, str) else json.dumps(v) for c in columns)
        for r in RECORDS
    ]
    frame = round_.lake.spark.createDataFrame(as_text, ", ".join(f"{c} STRING" for c in columns)).coalesce(1)
    path = str(tmp_path / f"said.{form}")
    writer = frame.write.format(form)
    (writer.option("header", True).option("escape", '"') if form == "csv" else writer).save(path)
    outcome = label.import_choices(round_, path)
    assert {key: outcome.detail[key] for key in COUNTS} == {"in": 8, "kept": 4, "folded": 2, "refused": 2}
    assert rows_of(round_) == wanted_rows()


@pytest.mark.slow
def test_an_answer_of_ours_gets_its_candidate_s_name(spark: SparkSession, tmp_path: Path) -> None:
    write_log(tmp_path / "log.jsonl", ["q1"])
    round_ = open_round(spark, fake_project(tmp_path, ingest=review(tmp_path), generate=with_review(8)))
    for name in ("ingest", "generate"):
        stages.run(round_, name)
    known = {r["text"]: r["candidate_id"] for r in round_.lake.read(lake.CANDIDATES).collect()}
    record = {"kind": "pair", "prompt": "q1", "chosen": "select 1", "rejected": "never said"}
    (tmp_path / "said.jsonl").write_text(json.dumps(record))
    label.import_choices(round_, str(tmp_path / "said.jsonl"))
    (row,) = round_.lake.read(lake.PREFERENCES).collect()
    texts = {r["candidate_id"]: r["text"] for r in round_.lake.read(lake.CANDIDATES).collect()}
    assert "select 1" in known
    assert texts[row["chosen"]] == "select 1"
    assert row["rejected"] not in texts


@pytest.mark.slow
def test_what_people_said_on_mlflow_traces(round_: Round) -> None:
    """Real traces and assessments in a real store; a judge's word is refused, and so is an overridden one."""
    import mlflow
    from mlflow.entities import AssessmentSource

    from taolake.stages.registry import connect

    connect(round_.project)
    mlflow.set_experiment("support")

    @mlflow.trace
    def ask(messages: list[dict[str, str]], answer: str) -> str:
        return answer

    def asked(answer: str) -> str:
        ask([{"role": "user", "content": "q1"}], answer)
        mlflow.flush_trace_async_logging()
        return str(mlflow.get_last_active_trace_id())

    kim, lee = (AssessmentSource("HUMAN", who) for who in ("kim", "lee"))
    good, bad = asked("a"), asked("b")
    for trace_id, value in ((good, True), (bad, False)):
        mlflow.log_feedback(trace_id=trace_id, name="helpful", value=value, source=kim)
    for trace_id, value in ((good, 2), (bad, 4)):
        mlflow.log_feedback(trace_id=trace_id, name="quality", value=value, source=lee)
    mlflow.log_feedback(trace_id=good, name="quality", value=1, source=AssessmentSource("LLM_JUDGE", "j"))
    mlflow.log_expectation(trace_id=good, name="expected_response", value="c", source=lee)
    first = mlflow.log_feedback(trace_id=good, name="tone", value=False, source=kim)
    mlflow.override_feedback(trace_id=good, assessment_id=first.assessment_id, value=True, source=kim)
    outcome = label.import_choices(round_, "mlflow:support")
    # Refused: the judge's, the overridden one, and the one that overrides it, which is alone.
    assert {key: outcome.detail[key] for key in COUNTS} == {"in": 8, "kept": 5, "folded": 0, "refused": 3}
    assert rows_of(round_) == {("q1", "a", "b", "kim"), ("q1", "b", "a", "lee"), ("q1", "c", "a", "lee")}
    strength = {r["kind"]: r["strength"] for r in round_.lake.read(lake.PREFERENCES).collect()}
    assert strength == {"thumb": 1.0, "rating": 0.5, "edit": 1.0}
    with pytest.raises(ValueError, match="no experiment 'other'"):
        label.import_choices(round_, "mlflow:other")


def review(folder: Path) -> dict[str, Any]:
    return {"sources": [{"format": "jsonl", "path": str(folder / "log.jsonl"), "split": "review"}]}


def with_review(n: int) -> dict[str, Any]:
    return {"n": 2, "review_n": n, "strategies": [{"name": "plain", "share": 1}]}


def says_pair(project: Project, question: str, answers: Sequence[str]) -> list[tuple[int, int]]:
    order = sorted(range(len(answers)), key=lambda i: answers[i])
    return list(itertools.pairwise(order))


def says_best_of(project: Project, question: str, answers: Sequence[str]) -> list[tuple[int, list[int]]]:
    best, *others = sorted(range(len(answers)), key=lambda i: answers[i])
    return [(best, others)]


@pytest.fixture
def reviewed(spark: SparkSession, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Round]:
    write_log(tmp_path / "log.jsonl", ["q1", "q2"])
    scorers = [
        {"kind": "regex", "name": "query", "pattern": "select"},
        {"kind": "regex", "name": "judge", "pattern": "select 2"},
        {"kind": "reward_model", "name": "people", "reviewer": f"tests.spark.test_label:{request.param}"},
    ]
    project = fake_project(
        tmp_path,
        ingest=review(tmp_path),
        generate=with_review(24),
        scorers=scorers,
        reward={"weights": {"query": 0.5, "people": 0.5}},
    )
    round_ = open_round(spark, project)
    for name in ("ingest", "generate", "label"):
        stages.run(round_, name)
    yield round_


PAIRS = {("dunno", "select 1"), ("select 1", "select 2")}
CHOICE = {("dunno", "select 1"), ("dunno", "select 2")}


@pytest.mark.parametrize(
    ("reviewed", "wanted", "kind", "choices"),
    [("says_pair", PAIRS, "pair", 4), ("says_best_of", CHOICE, "best_of", 2)],
    ids=["pairs", "choices"],
    indirect=["reviewed"],
)
def test_a_reviewer_says_pair_or_whole_choices(
    reviewed: Round, wanted: set[tuple[str, str]], kind: str, choices: int
) -> None:
    rows = reviewed.lake.read(lake.PREFERENCES).collect()
    texts = {r["candidate_id"]: r["text"] for r in reviewed.lake.read(lake.CANDIDATES).collect()}
    said = {(json.loads(r["messages"])[0]["content"], r["chosen_text"], r["rejected_text"]) for r in rows}
    assert said == {(q, *pair) for q in ("q1", "q2") for pair in wanted}
    assert {(texts[r["chosen"]], texts[r["rejected"]]) for r in rows} == wanted
    assert {(r["kind"], r["strength"], r["task"]) for r in rows} == {(kind, 1.0, "count")}
    assert len({r["choice"] for r in rows}) == choices
    assert {r["annotator"] for r in rows} == {f"tests.spark.test_label:says_{kind}"}
    assert label.label(reviewed).rows == 0
