"""Labels that may train: imitated beside the winners or alone, a measure; refused where they would teach the test."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from taolake import ids, lake, stages
from taolake.curation.labels import answers
from taolake.stages import reward as stage_reward
from taolake.stages.round import Round
from tests.projects import fake_project, open_round, write_log

UPSTREAM = ("ingest", "generate", "label", "score", "reward", "trust")
QUESTIONS = [f"question {i}" for i in range(24)]


def turns(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def write_labels(path: Path, questions: list[str], answer: str = "right {}") -> str:
    lines = [json.dumps({"messages": turns(q), "answer": answer.format(q)}) for q in questions]
    path.write_text("".join(line + "\n" for line in lines))
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


def test_labels_calibrate_the_reward_and_set_k(spark: SparkSession, folder: Path, tmp_path: Path) -> None:
    """The reward takes a refusal for as good as the right answer; labels know that `select 2` alone is right."""
    labelled = splits()["train"][:12]
    label = {"kind": "label", "name": "right", "path": write_labels(tmp_path / "l.jsonl", labelled, "select 2")}
    two = {"kind": "regex", "name": "two", "pattern": "select 2|dunno"}
    reward = {"weights": {"two": 1.0}, "min_spread": 0.0}
    calibrated = reward | {"calibrate": "platt", "calibrated_by": "right", "min_choices": 10}
    sections = {"scorers": [two, label], "select": {"measured_by": "right"}, "evaluate": {"judge": "judge"}}
    judge = {"kind": "regex", "name": "judge", "pattern": "select 2"}
    sections["scorers"].append(judge)
    sections["lake"] = str(shutil.copytree(folder / "lake", tmp_path / "lake"))
    found = {}
    for name, rule in {"plain": reward, "chances": calibrated}.items():
        round_ = open_round(spark, fake_project(folder, **sections, reward=rule))
        for stage in (*UPSTREAM, "select"):
            stages.run(round_, stage)
        rows = stage_reward.current(round_, round_.base).where("split = 'train'").select("text", "reward").collect()
        found[name] = {text: {r["reward"] for r in rows if r["text"] == text} for text in ("select 1", "select 2")}
        measured = round_.done("select").detail["best_of"]
        assert measured["measured_by"] == "right" and measured["prompts"] <= 12 and measured["rise"]["low"] > 0
    words = round_.lake.read(lake.SCORES).where("scorer = 'right'")
    told = {(r["status"], r["value"]) for r in words.select("status", "value").collect()}
    assert told == {("ok", 1.0), ("ok", 0.0), ("abstain", None)}
    assert words.where("status = 'ok'").select("prompt_id").distinct().count() == 12
    assert found["plain"] == {"select 1": {0.0}, "select 2": {1.0}}
    # A prompt whose answers are all alike has no one to beat: one half.
    assert 1 > max(found["chances"]["select 2"]) > 0.8 and min(found["chances"]["select 2"]) >= 0.5
    assert 0 < min(found["chances"]["select 1"]) < 0.2 and max(found["chances"]["select 1"]) <= 0.5
    assert round_.done("reward").detail["calibration"] == "platt"


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
