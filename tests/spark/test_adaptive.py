"""Adaptive N through the stage: waves, the budget, and a run that was stopped between asking and reading."""

import json
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from taolake import lake, stages
from taolake.stages import adaptive
from taolake.stages.round import Round
from tests.projects import fake_project, open_round, write_log

pytestmark = pytest.mark.slow  # whole stages in waves; that no budget is passed is a property test of test_budget
QUESTIONS = [f"question {i}" for i in range(24)]
STRATEGIES = [  # the judge likes `select 2`
    {"name": "plain", "share": 0.5, "extract": {"kind": "regex", "pattern": "(select 1|dunno)"}},
    {"name": "asked", "share": 0.25, "template": "{question} Please."},
    {
        "name": "never",
        "share": 0.25,
        "template": "{question} No!",
        "extract": {"kind": "regex", "pattern": "(select 1)"},
    },
]
BUDGET = {"tokens": 900, "scorer": "judge", "probe": 3, "step": 2, "n_max": 12, "easy": 5, "hopeless": 8}


def project(folder: Path, **budget: Any) -> Any:
    write_log(folder / "log.jsonl", QUESTIONS)
    generate = {"review_n": 0, "chunk_rows": 16, "strategies": STRATEGIES,
                "budget": {**BUDGET, **budget}}  # fmt: skip
    return fake_project(folder, generate=generate, model={"path": "no-model", "max_tokens": 8})


def answers(round_: Round) -> dict[str, int]:
    """Candidates of training prompts, by prompt."""
    train = [r["prompt_id"] for r in round_.lake.read(lake.PROMPTS).where("split = 'train'").collect()]
    rows = round_.lake.read(lake.CANDIDATES).where("stream != 'G'").groupBy("prompt_id").count().collect()
    return {r["prompt_id"]: r["count"] for r in rows if r["prompt_id"] in train}


@pytest.fixture(scope="module")
def whole(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Round:
    """A run that nothing stopped."""
    round_ = open_round(spark, project(tmp_path_factory.mktemp("whole")))
    for name in ("ingest", "generate"):
        stages.run(round_, name)
    return round_


def test_waves_end_under_the_budget_and_every_prompt_was_asked(whole: Round) -> None:
    round_ = whole
    said = round_.done("generate").detail["budget"]
    given = answers(round_)
    train = round_.lake.read(lake.PROMPTS).where("split = 'train'").count()
    assert len(given) == train == sum(said["settled"].values())
    assert sum(given.values()) == said["asked"] and said["waves"] >= 3
    assert min(given.values()) >= 3 and max(given.values()) > min(given.values())
    mine = round_.lake.read(lake.CANDIDATES).where("stream != 'G'").collect()
    spent = sum(r["tokens"] for r in mine if r["prompt_id"] in given)
    assert said["spent"] == spent <= said["limit"] == 900
    again, ran = stages.run(round_, "generate")
    assert not ran and answers(round_) == given and again.rows == 0


def test_strategies_share_by_what_they_won(whole: Round) -> None:
    """Answers that the judge likes are given by `asked` alone."""
    said = whole.done("generate").detail["budget"]
    assert said["won"]["never"]["wins"] == 0 < said["won"]["asked"]["wins"]
    share = said["shares"]
    assert sum(share.values()) == pytest.approx(1, abs=1e-3) and share["plain"] >= 0.5
    assert share["never"] < 0.25 and share["never"] < share["asked"]
    rows = whole.lake.read(lake.CANDIDATES).where("stream = 'B'").groupBy("strategy").count().collect()
    made = {row["strategy"].rpartition("-")[0]: row["count"] for row in rows}
    assert set(made) == {"asked", "never"} and made["never"] < made["asked"]


def test_fixed_shares_stay_as_set(spark: SparkSession, tmp_path: Path) -> None:
    round_ = open_round(spark, project(tmp_path, shares="fixed"))
    for name in ("ingest", "generate"):
        stages.run(round_, name)
    said = round_.done("generate").detail["budget"]
    assert said["shares"] == {"plain": 0.5, "asked": 0.25, "never": 0.25} and said["won"]["never"]["wins"] == 0


def test_a_small_budget_is_kept(spark: SparkSession, tmp_path: Path) -> None:
    round_ = open_round(spark, project(tmp_path, tokens=60))
    for name in ("ingest", "generate"):
        stages.run(round_, name)
    said = round_.done("generate").detail["budget"]
    assert 0 < said["spent"] <= 60 and said["settled"]["unasked"] > 0


def test_a_stopped_run_asks_what_the_uninterrupted_one_does(
    spark: SparkSession, whole: Round, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after a wave was written down and before it was asked; the same candidates come out."""
    stopped = open_round(spark, project(tmp_path))
    stages.run(stopped, "ingest")
    kept, calls = adaptive.write_atomic, []

    def stop(path: Path, text: str) -> None:
        kept(path, text)
        calls.append(json.loads(text))
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(adaptive, "write_atomic", stop)
    with pytest.raises(KeyboardInterrupt):
        stages.run(stopped, "generate")
    monkeypatch.setattr(adaptive, "write_atomic", kept)
    stages.run(stopped, "generate")
    assert answers(stopped) == answers(whole) and len(calls) == 2
    key = ("candidate_id", "text")
    both = [{tuple(r[c] for c in key) for r in x.lake.read(lake.CANDIDATES).collect()} for x in (whole, stopped)]
    assert both[0] == both[1]
