"""Labels that may train: imitated beside the winners or alone, and refused where they would teach the test."""

import json
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from taolake import ids, lake, stages
from taolake.curation.labels import answers
from taolake.stages.round import Round
from tests.projects import fake_project, open_round, write_log

UPSTREAM = ("ingest", "generate", "label", "score", "reward", "trust")
QUESTIONS = [f"question {i}" for i in range(24)]


def turns(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def write_labels(path: Path, questions: list[str]) -> str:
    path.write_text("".join(json.dumps({"messages": turns(q), "answer": f"right {q}"}) + "\n" for q in questions))
    return str(path)


def splits(holdout: float = 0.3) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"train": [], "holdout": []}
    for question in QUESTIONS:
        prompt = ids.prompt_id("count", turns(question))  # type: ignore[arg-type]
        found[ids.split_of(prompt, 7, holdout)].append(question)
    return found


@pytest.fixture(scope="module")
def folder(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A round before select, which labels do not reach."""
    made = tmp_path_factory.mktemp("labelled")
    write_log(made / "log.jsonl", QUESTIONS)
    round_ = open_round(spark, fake_project(made))
    for name in UPSTREAM:
        stages.run(round_, name)
    return made


def selected(spark: SparkSession, folder: Path, **sections: Any) -> Round:
    round_ = open_round(spark, fake_project(folder, **sections))
    assert not any(stages.run(round_, name)[1] for name in UPSTREAM)
    stages.run(round_, "select")
    return round_


@pytest.mark.parametrize("alone", [False, True])
def test_labels_are_imitated(spark: SparkSession, folder: Path, tmp_path: Path, alone: bool) -> None:
    some = splits()["train"][:3]
    path = write_labels(tmp_path / "labels.jsonl", some)
    sections = {"select": {"labels": {"path": path, "alone": alone}}, "train": {"algorithm": "rft"}}
    round_ = selected(spark, folder, **sections)
    rows = round_.lake.rows(lake.SELECTIONS, selection=round_.done("select").detail["selection"])
    told = [row for row in rows if row["candidate_id"] is None]
    assert sorted({row["text"] for row in told}) == sorted(f"right {q}" for q in some)
    assert len(told) == 3 * 4 == len({row["row_id"] for row in told}) and {row["kind"] for row in rows} == {"imitate"}
    assert (len(rows) == len(told)) is alone


def test_a_label_of_the_holdout_is_refused(spark: SparkSession, folder: Path, tmp_path: Path) -> None:
    path = write_labels(tmp_path / "labels.jsonl", [splits()["train"][0], splits()["holdout"][0]])
    with pytest.raises(ValueError, match="labels 1 prompts of split holdout, wanted training prompts alone"):
        selected(spark, folder, select={"labels": {"path": path}})


def test_labels_of_other_prompts_are_refused(spark: SparkSession, folder: Path, tmp_path: Path) -> None:
    path = write_labels(tmp_path / "labels.jsonl", ["never asked"])
    with pytest.raises(ValueError, match="labels 1 prompts and none is in the log"):
        selected(spark, folder, select={"labels": {"path": path}})


def test_a_line_without_an_answer_is_named(tmp_path: Path) -> None:
    (tmp_path / "l.jsonl").write_text(json.dumps({"messages": turns("a")}) + "\n")
    with pytest.raises(ValueError, match=r"l\.jsonl:1: no `answer`"):
        answers(str(tmp_path / "l.jsonl"), "count")
