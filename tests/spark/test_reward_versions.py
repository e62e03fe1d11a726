"""Which reward model a round asks for: the one there is, in whichever round it was trained, until something changes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from taolake import databricks, lake
from taolake.config import RewardModelScorer
from taolake.stages import base, label, reward_model, served
from taolake.stages.round import Round
from taolake.training import launch
from taolake.training.job import TrainJob, TrainResult
from tests.projects import changed, fake_project, open_round
from tests.serving.test_base import one_version


def trained(round_: Round) -> str:
    """Folder of the reward model that a round asks for."""
    spec = next(s for s in round_.project.scorers if isinstance(s, RewardModelScorer))
    return reward_model.train_reward_model(round_, spec).folder


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[TrainJob]:
    """What would have been trained, after the launcher's own look at the folder."""
    asked: list[TrainJob] = []

    def claimed(job: TrainJob, on_line: Callable[[str], None]) -> TrainResult:
        launch.claim(Path(job.out), job)
        asked.append(job)
        return TrainResult(job.out, "adapter")

    monkeypatch.setattr(databricks, "launch", claimed)
    return asked


def test_a_round_after_a_refused_one_asks_for_the_same_model(
    spark: SparkSession, tmp_path: Path, jobs: list[TrainJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both start from the version promoted before them, with the same choices."""
    scorers: list[dict[str, Any]] = [
        {"kind": "reward_model", "name": "people"},
        {"kind": "regex", "name": "judge", "pattern": "a"},
    ]
    reward = {"weights": {"people": 1}}
    project = fake_project(tmp_path, flywheel={"base": "champion"}, scorers=scorers, reward=reward)
    one_version(project)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.bin").write_text("one")
    monkeypatch.setattr(served, "registered", lambda *given: (str(tmp_path / "weights"),) * 2 + ("fake/1",))
    said = [{"kind": "pair", "prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(4)]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    label.import_choices(open_round(spark, project), str(tmp_path / "said.jsonl"))

    second, third = (open_round(spark, base.begin(project, number), number) for number in (2, 3))
    assert second.lake.read(lake.PREFERENCES).count() == 4
    assert trained(second) == trained(third)
    assert jobs[0].fingerprint == jobs[1].fingerprint

    shorter = changed(third.project, model=third.project.model.model_dump() | {"max_model_len": 64, "max_tokens": 16})
    assert trained(open_round(spark, shorter, 3)) != jobs[0].out, "other limits are another model, not an error"
    (tmp_path / "weights" / "model.bin").write_text("two")
    assert trained(open_round(spark, base.begin(project, 4), 4)) != jobs[0].out
