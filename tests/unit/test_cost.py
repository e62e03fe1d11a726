"""What a round will cost, in exact numbers; and that it stops when it has cost that."""

from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from taolake import cli, cost
from taolake.cli.cost import measured
from taolake.config import Budget, Cost, Project
from taolake.cost import Inputs, Speeds
from taolake.stages.cap import Cap
from taolake.stages.round import Record
from tests.projects import fake_project

SPEEDS = Speeds(generate=100.0, train=50.0, answer_tokens=20.0)


def project(tmp_path: object, **changes: object) -> Project:
    sections = {
        "ingest": {"holdout": 0.2, "sources": [{"format": "jsonl", "path": "x"}]},
        "engine": {"kind": "fake", "answers": ["a"], "devices": 2},
        "generate": {"n": 10, "review_n": 5, "strategies": [{"name": "plain", "share": 0.8},
                     {"name": "other", "share": 0.2, "template": "{question}?"}]},
        "cost": {"dollars_per_hour": 3.6, "dbu_per_gpu_hour": 10},
        "train": {"warmup": {"epochs": 1}, "oapl": {"epochs": 2}},
    }  # fmt: skip
    return fake_project(tmp_path, **{**sections, **changes})  # type: ignore[arg-type]


def test_tokens_and_hours_by_hand(tmp_path: object) -> None:
    """100 prompts: 80 train x 10, 20 holdout x (1 + 4) twice, 4 for review x 5."""
    inputs = Inputs(100, 4, prompt_tokens=30.0, speeds=SPEEDS, dbu_per_gpu_hour=10)
    generate, train, evaluate = cost.expected(project(tmp_path), inputs)
    assert generate.tokens == (800 + 100 + 20) * 20
    assert evaluate.tokens == 100 * 20
    # 80 prompts: 4 imitated once, and 8 of stream A twice over, after one look by the reference.
    assert train.tokens == (80 * 4 + 80 * 8 * 3) * 50
    assert generate.gpu_hours == pytest.approx(18400 / 100 / 3600)
    assert generate.hours == pytest.approx(generate.gpu_hours / 2)
    assert train.gpu_hours == train.hours == pytest.approx(train.tokens / 50 / 3600)
    hours = generate.hours + train.hours + evaluate.hours
    assert cost.dollars(project(tmp_path), [generate, train, evaluate]) == pytest.approx(hours * 3.6)


@pytest.mark.parametrize(
    ("train", "rows"),
    [
        ({"algorithm": "rft", "warmup": {"epochs": 3}}, 80 * 4 * 3),
        ({"algorithm": "tao", "warmup": {"when": "never"}, "oapl": {"epochs": 1}}, 80 * 8 * 2),
        ({"algorithm": "bond", "bond": {"epochs": 1}}, 80 * 8 * 2),
        ({"algorithm": "kto", "kto": {"epochs": 1}}, 80 * 10 * 2 * 2),
        ({"algorithm": "dpo", "dpo": {"epochs": 2}}, 80 * 2 * 3),
        ({"algorithm": "grpo", "batch_size": 16, "grpo": {"steps": 5}}, 80),
        ({"algorithm": "rloo", "batch_size": 16, "rloo": {"steps": 5}}, 80),
    ],
)
def test_every_algorithm_passes_over_its_rows(tmp_path: object, train: dict[str, object], rows: int) -> None:
    inputs = Inputs(100, 0, prompt_tokens=30.0, speeds=SPEEDS, dbu_per_gpu_hour=10)
    assert cost.expected(project(tmp_path, train=train), inputs)[1].tokens == rows * 50


@pytest.mark.parametrize(
    ("budget", "answers"),
    [
        ({"tokens": 4000}, 200),
        ({"tokens": 10**9}, 80 * 12),
        ({"dollars": 0.1, "dollars_per_million": [1.0, 10.0]}, 0.1 / (30 + 20 * 10) * 1e6),
    ],
)
def test_a_budget_bounds_what_is_generated(tmp_path: object, budget: dict[str, object], answers: float) -> None:
    inputs = Inputs(100, 0, prompt_tokens=30.0, speeds=SPEEDS, dbu_per_gpu_hour=10)
    whole = project(tmp_path)
    limited = Budget.model_validate({"scorer": "query", "n_max": 12, **budget})
    adaptive = whole.model_copy(update={"generate": whole.generate.model_copy(update={"budget": limited})})
    assert cost.expected(adaptive, inputs)[0].tokens == pytest.approx((answers + 100) * 20)


def test_plan_shows_its_inputs_and_counts_dbus() -> None:
    words = ["plan", "conf/lakehouse.yml", "--prompts", "1000", "--generate-speed", "500", "--train-speed", "1000",
             "--answer-tokens", "100", "--dbu-per-gpu-hour", "12"]  # fmt: skip
    said = CliRunner().invoke(cli.app, [*words, "--target", "databricks"])
    assert said.exit_code == 0, said.output
    lines = said.output.splitlines()
    assert lines[0].startswith(
        "from 1000 prompts and 0 for review, 300 tokens each, answers of 100; an engine writes 500"
    )
    assert [line.split()[0] for line in lines[1:5]] == ["generate", "train", "evaluate", "all"]
    hours = float(lines[4].split()[-2])
    assert float(lines[5].split()[0]) == pytest.approx(12 * hours, abs=0.2)
    assert "DBUs at 12 for a GPU-hour" in lines[5]
    local = CliRunner().invoke(cli.app, words)
    assert "DBU" not in local.output
    assert local.output.splitlines()[:5] == lines[:5]


def test_speeds_are_never_guessed() -> None:
    said = CliRunner().invoke(cli.app, ["plan", "conf/lakehouse.yml", "--prompts", "1000", "--train-speed", "5"])
    assert said.exit_code == 2
    assert "give --generate-speed, --train-speed and --answer-tokens" in said.output
    said = CliRunner().invoke(cli.app, ["plan", "conf/lakehouse.yml", "--prompts", "1000", "--target", "moon"])
    assert (said.exit_code, "wanted local or databricks" in said.output) == (2, True)


def test_a_finished_round_knows_its_speeds(tmp_path: object) -> None:
    rows = {
        "generate": Record("generate", "done", "f", 9.0, {"tokens_per_s": 300.0, "candidates": 50}, tokens=2000),
        "train": Record("train", "done", "f", 20.0, {}, tokens=5000),
    }
    opened: Any = SimpleNamespace(number=4, project=project(tmp_path), done=lambda stage, current: rows[stage])
    assert measured(opened) == Speeds(150.0, 250.0, 40.0)
    rows["generate"].detail["tokens_per_s"] = 0.0
    with pytest.raises(ValueError, match="round 4 generated nothing of its own"):
        measured(opened)


def test_a_cap_counts_what_was_spent_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    price = Cost(dollars_per_hour=2.0, max_dollars=3.0)
    cap = Cap(price, seconds=3600.0)
    cap.check()
    now[0] += 1799
    cap.check()
    now[0] += 1
    with pytest.raises(
        RuntimeError, match=r"has cost 3\.00 of 3\.00 dollars; raise cost\.max_dollars and run it again"
    ):
        cap.check()
    Cap(price.model_copy(update={"max_dollars": None}), 1e9).check()
