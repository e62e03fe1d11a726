"""Two tasks in one tuning, on the fake engine: whose rows are trained on, and a task that gets worse blocks."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyspark.sql import SparkSession

from taolake import stages
from taolake.stages import gate, together, train
from taolake.stages.round import Outcome, Round
from tests.projects import fake_project, open_round, write_log


def other(spark: SparkSession, folder: Path) -> Path:
    """A second task with fewer prompts, done up to select; its project file."""
    folder.mkdir()
    write_log(folder / "log.jsonl", [f"other {i}" for i in range(12)])
    made = fake_project(folder, task={"name": "second"}, name="second")
    for name in ("ingest", "generate", "label", "score", "reward", "trust", "select"):
        stages.run(open_round(spark, made), name)
    path = folder / "second.yml"
    path.write_text(yaml.safe_dump(made.model_dump(mode="json", by_alias=True)))
    return path


def first(spark: SparkSession, folder: Path, **settings: Any) -> Round:
    write_log(folder / "log.jsonl", [f"question {i}" for i in range(24)])
    round_ = open_round(spark, fake_project(folder, train=settings))
    for name in ("ingest", "generate", "label", "score", "reward", "trust", "select"):
        stages.run(round_, name)
    return round_


@pytest.mark.slow  # whole fake rounds, minutes on two cores
def test_rows_of_both_tasks_are_trained_on_by_their_shares(spark: SparkSession, tmp_path: Path) -> None:
    path = other(spark, tmp_path / "second")
    mixed = first(spark, tmp_path, others=[{"project": str(path)}], mixing=0.0)
    selection = mixed.done("select").detail["selection"]
    table, seen = together.rows(mixed, selection)
    alone, nothing = together.rows(Round(mixed.lake, fake_project(tmp_path), 1), selection)
    assert nothing == {}
    mine = set(alone["prompt_id"].to_pylist())
    told = Counter(table["prompt_id"].to_pylist())
    theirs = set(told) - mine
    assert theirs and abs(seen["count"] - seen["second"]) <= 1  # at 0 tasks count alike, however few prompts they have
    assert seen["count"] + seen["second"] == len(mine) + len(theirs)
    pairs = [(r["prompt_id"], r["kind"], r["candidate_id"]) for r in table.to_pylist() if r["prompt_id"] in theirs]
    assert max(Counter(pairs).values()) > 1  # the smaller task is seen again


def test_what_cannot_be_tuned_together_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    raw = fake_project(tmp_path).model_dump(mode="json", by_alias=True)
    for change, said in (
        ({"task": {"name": "b"}, "model": {"path": "elsewhere"}}, "has model 'elsewhere', wanted 'no-model'"),
        ({"task": {"name": "b"}, "train": {"algorithm": "dpo"}}, "has algorithm 'dpo', wanted 'tao'"),
        ({}, "is task 'count' too, wanted another task"),
    ):
        path = tmp_path / "b.yml"
        path.write_text(yaml.safe_dump(raw | change))
        project = fake_project(tmp_path, train={"others": [{"project": str(path)}]})
        with pytest.raises(ValueError, match=said):
            together.opened(open_round(spark, project), project.train.others[0])


@pytest.mark.slow  # whole fake rounds, minutes on two cores
@pytest.mark.parametrize("max_loss", [0.0, 1.0])
def test_a_task_that_gets_worse_blocks(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_loss: float
) -> None:
    """The tuned policy is the fake engine with other draws; what it lost on the second task is counted by hand."""
    path = other(spark, tmp_path / "second")
    round_ = first(spark, tmp_path, others=[{"project": str(path), "max_loss": max_loss}])
    made = {"policy": "t" * 32, "model": "no-model", "revision": None, "adapter": None}
    monkeypatch.setattr(train, "train", lambda round_: Outcome(0, 0, made))
    for name in ("train", "evaluate", "gate"):
        stages.run(round_, name)
    found = round_.done("evaluate").detail["others"]["second"]
    theirs = together.opened(round_, round_.project.train.others[0])
    values = {who: gate.measured(theirs, found["evaluation"], found[who])["greedy"] for who in ("base", "tuned")}
    assert len(values["base"]) == len(values["tuned"]) == found["prompts"] > 0
    lost = sum(values["base"].values()) / found["prompts"] - sum(values["tuned"].values()) / found["prompts"]
    verdict = round_.done("gate").detail
    guard = next(g for g in verdict["guards"] if g["name"] == "loss_of_second")
    assert guard["value"] == pytest.approx(max(lost, 0.0)) and guard["limit"] == max_loss
    assert guard["ok"] is (max(lost, 0.0) <= max_loss)
    assert verdict["tasks"]["second"]["mean"] == pytest.approx(-lost)
    assert guard["ok"] or not verdict["promoted"]
