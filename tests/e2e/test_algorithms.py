"""Every algorithm on a two-layer model: which way it must move, what its loss is before it has moved, exact resume."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from taolake.training.job import TrainJob, TrainResult
from tests.e2e.toy import THINGS, WORDS, job_of, project_of, row_of, same, selections, tiny_llama, weights_of

OFFLINE = ("rft", "dpo", "kto", "bond", "tao")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_llama(tmp_path_factory.mktemp("base"))


def rows_for_all(base: str) -> list[dict[str, Any]]:
    """What each algorithm reads: the right word wins over the next one; one winner was written by another prompt."""
    rows = selections(base)
    for i, thing in enumerate(THINGS):
        right, wrong = WORDS[i], WORDS[(i + 1) % len(WORDS)]
        rows += [row_of("chosen", thing, text=right), row_of("rejected", thing, text=wrong)]
        rows += [row_of("good", thing, text=right), row_of("bad", thing, text=wrong)]
    return rows


def run(job: TrainJob) -> TrainResult:
    from taolake.training.launch import _run

    return _run(job)


def log_ratios(job: TrainJob, result: TrainResult, *kinds: str) -> dict[str, list[float]]:
    """log pi / pi_base of the rows of each kind."""
    from transformers import AutoModelForCausalLM

    from taolake.training import oapl, offline, setup
    from taolake.training.merge import merge

    tokenizer = setup.tokenizer(job.base)
    tuned = result.folder if result.kind == "model" else merge(job.base, result.folder, Path(job.out) / "merged")
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (job.base, tuned))
    found = {}
    for kind in kinds:
        rows = offline.rows_of(job, tokenizer, kind)
        pair = [oapl.score(model, rows, tokenizer.pad_token_id, 8, "test") for model in (before, after)]
        found[kind] = [b - a for a, b in zip(*pair, strict=True)]
    return found


@pytest.mark.parametrize("lora", [{"rank": 8, "alpha": 16}, None])
def test_pairs_move_apart_and_the_winner_stays_up(base: str, tmp_path: Path, lora: dict[str, int] | None) -> None:
    spec = {"epochs": 30, "learning_rate": 0.005 if lora else 0.001}
    job = job_of(base, tmp_path, rows_for_all(base), "dpo", lora=lora, dpo=spec)
    result = run(job)
    assert result.kind == ("adapter" if lora else "model")
    assert result.metrics["rows"] == 8 and result.metrics["pair_accuracy"] == 1.0 and result.metrics["noise"] == 0.0
    moved = log_ratios(job, result, "chosen", "rejected")
    assert min(moved["chosen"]) > 0  # without the likelihood term both sides may fall
    assert all(won > lost + 1 for won, lost in zip(moved["chosen"], moved["rejected"], strict=True))


@pytest.mark.parametrize("lora", [{"rank": 8, "alpha": 16}, None])
def test_good_answers_rise_above_bad_ones(base: str, tmp_path: Path, lora: dict[str, int] | None) -> None:
    spec = {"epochs": 20, "learning_rate": 0.005 if lora else 0.001}
    job = job_of(base, tmp_path, rows_for_all(base), "kto", lora=lora, kto=spec)
    result = run(job)
    assert (result.metrics["good"], result.metrics["bad"]) == (8, 8)
    moved = log_ratios(job, result, "good", "bad")
    assert all(won > lost + 1 for won, lost in zip(moved["good"], moved["bad"], strict=True))


def test_bond_regresses_on_its_own_scale(base: str, tmp_path: Path) -> None:
    job = job_of(base, tmp_path, rows_for_all(base), "bond", bond={"epochs": 20, "learning_rate": 0.005})
    result = run(job)
    assert result.metrics["correlation"] > 0.9
    assert result.metrics["rows"] == 40


def losses(base: str, folder: Path, algorithm: str, micro: int | None, **spec: Any) -> list[float]:
    """Loss of every step, from the trainer's own books."""
    import json

    settings = {algorithm: {"epochs": 1, "learning_rate": 0.003, **spec}, "micro_batch_size": micro, "save_steps": 1}
    job = job_of(base, folder, rows_for_all(base), algorithm, **settings)
    run(job)
    last = max((job.work / algorithm).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def test_before_the_first_step_nothing_tells_the_sides_apart(base: str, tmp_path: Path) -> None:
    """With policy = reference: DPO is log 2, also with noise allowed for; KTO is one half of the sides' weights."""
    assert losses(base, tmp_path / "a", "dpo", None, nll=0.0)[0] == pytest.approx(math.log(2), abs=1e-4)
    assert losses(base, tmp_path / "b", "dpo", None, nll=0.0, noise=0.2)[0] == pytest.approx(math.log(2), abs=1e-4)
    assert losses(base, tmp_path / "c", "kto", None)[0] == pytest.approx(0.5, abs=1e-4)


def test_accumulation_does_not_change_a_step_of_pairs(base: str, tmp_path: Path) -> None:
    whole, split = (losses(base, tmp_path / str(micro), "dpo", micro, nll=0.0, epochs=3) for micro in (8, 2))
    assert len(whole) == 3 and whole[2] < whole[0] - 0.01
    assert whole == pytest.approx(split, rel=1e-4)


def test_chances_of_the_pairs_say_how_noisy_they_are() -> None:
    from taolake.training.dpo import noise

    assert noise({"noise": None}, [1.0, 0.8, 0.6]) == pytest.approx(0.2)
    assert noise({"noise": 0.1}, [1.0]) == 0.1


def test_the_rarer_side_weighs_more() -> None:
    from taolake.training.kto import balance

    assert balance(10, 40) == (4.0, 1.0)
    assert balance(40, 10) == (1.0, 4.0)
    assert balance(5, 5) == (1.0, 1.0)


def test_one_sided_verdicts_are_refused(base: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8 good and 0 bad answers within 64 tokens, wanted some of each"):
        run(job_of(base, tmp_path, [row_of("good", thing, text="blue") for thing in THINGS], "kto"))


@pytest.mark.parametrize("algorithm", OFFLINE)
def test_resume_is_exact(base: str, tmp_path: Path, restarted: Callable[..., Any], algorithm: str) -> None:
    """Killed at step 3 with a checkpoint at step 2: the same weights to the last bit as without."""
    section = {"rft": "warmup", "tao": "oapl"}.get(algorithm, algorithm)
    settings = {section: {"epochs": 1, "learning_rate": 0.003}, "batch_size": 2, "save_steps": 2}
    rows = rows_for_all(base)
    job = replace(job_of(base, tmp_path / "whole", rows, algorithm, **settings), warmup=False)
    straight = run(job)
    assert straight.metrics["steps"] >= 4 and straight.metrics["resumed_at"] == 0
    again = restarted(run, replace(job, out=str(tmp_path / "killed")), 3)
    assert again.metrics["resumed_at"] == 2
    assert same(weights_of(again.folder), weights_of(straight.folder))


def test_a_step_of_prompts_holds_none_twice_and_every_pass_holds_all() -> None:
    from taolake.training.online import schedule

    prompts = [{"prompt_id": str(i)} for i in range(7)]
    names = [row["prompt_id"] for row in schedule(prompts, 3, 10, seed=1)]
    assert len(names) == 30 and all(len(set(names[i : i + 3])) == 3 for i in range(0, 30, 3))
    assert all(len(set(names[i : i + 6])) == 6 for i in range(0, 30, 6))  # two whole steps a pass, one prompt waits
    assert set(names) == set("0123456") and names[:6] != names[6:12]
    assert schedule(prompts, 3, 4, seed=1) == schedule(prompts, 3, 10, seed=1)[:12] != schedule(prompts, 3, 4, seed=2)


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_online_training_resumes_exactly(
    base: str, tmp_path: Path, restarted: Callable[..., Any], algorithm: str
) -> None:
    scorers = [{"kind": "regex", "name": "early", "pattern": "^[^a-z]*[a-m]"}]  # about half of what it says at first
    project = project_of(base, scorers, {"weights": {"early": 1}, "min_spread": 0})
    settings = {algorithm: {"steps": 3, "num_generations": 4, "learning_rate": 0.01}, "batch_size": 8, "save_steps": 2}
    job = job_of(base, tmp_path / "whole", [row_of("prompt", t) for t in THINGS[:4]], algorithm, **settings)
    whole = project.model_dump(mode="json", by_alias=True)
    whole["model"]["max_tokens"] = 48  # what is cut off teaches nothing, and this model ends an answer rarely
    job = replace(job, project=whole)
    straight = run(job)
    assert straight.metrics["steps"] == 3 and straight.metrics["prompts"] == 4
    assert any("lora_B" in name and value.abs().max() > 0 for name, value in weights_of(straight.folder).items())
    again = restarted(run, replace(job, out=str(tmp_path / "killed")), 3)
    assert again.metrics["resumed_at"] == 2
    assert same(weights_of(again.folder), weights_of(straight.folder))
