"""Brakes on a two-layer model: a reward that can be gamed is discarded, an honest one trains on, resume is exact."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState

from taolake.training.brakes import Brake, Drawn
from taolake.training.job import TrainJob, read_trips
from taolake.training.launch import _attempts, launch
from taolake.trust.brakes import BrakeError
from tests.e2e.toy import (
    THINGS,
    WORDS,
    job_of,
    project_of,
    row_of,
    same,
    selections,
    tiny_llama,
    weights_of,
)

LIMITS = {"every": 4, "samples": 4, "scorer": "right", "max_kl": 50.0, "min_entropy": 0.0, "max_length_change": 1.0}

OPEN = {"max_kl": 1e6, "max_truncated": 1.0, "max_repetition": 1e6, "max_top_answer": 1e6, "max_correlation_fall": 2.0}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture(autouse=True)
def scorers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The right word, which the brakes hold against the reward; and a canary."""
    table = dict(zip(THINGS, WORDS, strict=True))
    (tmp_path / "toy_truth.py").write_text(
        f"TABLE = {table!r}\n\n\ndef right(messages, answer):\n"
        "    return float(answer.strip() == TABLE[messages[-1]['content'].split()[-1]])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def braked(base: str, folder: Path, rows: list[dict[str, Any]], algorithm: str = "tao", **settings: Any) -> TrainJob:
    """A job whose brakes look at every prompt there is; the toy has no others."""
    limits = {**LIMITS, **settings.pop("brakes", {})}
    scorers = [
        {"kind": "function", "name": "right", "target": "toy_truth:right"},
        {"kind": "regex", "name": "vowel", "pattern": "e"},
    ]
    project = project_of(base, scorers, {"weights": {"vowel": 1}, "min_spread": 0, "min_scored": 2})
    rows = [*rows, *(row_of("dev", thing) for thing in THINGS)]
    job = job_of(base, folder, rows, algorithm, brakes=limits, **settings)
    whole = project.model_dump(mode="json", by_alias=True)
    return replace(job, warmup=False, project=whole)


def test_an_answer_to_everything_trips_twice_and_the_evidence_stays(base: str, tmp_path: Path) -> None:
    rows = [row_of("imitate", thing, text="gold") for thing in THINGS]
    job = braked(base, tmp_path, rows, "rft", warmup={"epochs": 80, "learning_rate": 0.01})
    with pytest.raises(BrakeError, match="top_answer is") as refused:
        launch(job)
    first, second = refused.value.detail["trips"]
    assert "top_answer" in first["tripped"] and "top_answer" in second["tripped"]
    assert first["looks"][-1]["step"] < 40 and second["looks"][-1]["step"] < 40  # of 80, and of 40
    assert first["base"]["top_answer"] < 0.2 < first["looks"][-1]["top_answer"]
    assert read_trips(tmp_path) == [first, second] and not (tmp_path / "result.json").exists()
    with pytest.raises(BrakeError):  # from the folder: a discarded job is not run again
        launch(job, lambda line: pytest.fail("a discarded job started again"))


def test_an_honest_reward_trains_to_its_best_look(base: str, tmp_path: Path) -> None:
    rows = [row_of("imitate", thing, text=word) for thing, word in zip(THINGS, WORDS, strict=True)]
    rate = {"epochs": 60, "learning_rate": 0.01}
    result = _attempts(braked(base, tmp_path, rows, "rft", warmup=rate, brakes={"max_top_answer": 20.0}))
    assert result is not None
    said = result.metrics["brakes"]
    assert said["tripped"] == [] and "trips" not in result.metrics
    held = {look["step"]: look["held"] for look in said["looks"]}
    assert held[said["best_step"]] == max(held.values()) > said["base"]["held"] + 0.3
    assert said["looks"][-1]["kl"] > said["looks"][0]["kl"] > 0
    from safetensors.torch import load_file

    best = load_file(tmp_path / "work" / "best.safetensors")
    kept = weights_of(result.folder)
    assert len(best) == len(kept) > 0
    assert same({n.replace(".default", ""): v for n, v in best.items()}, kept)


def test_without_progress_training_stops_early_and_nothing_is_kept(base: str, tmp_path: Path) -> None:
    """A rate too small to learn anything: nothing gets better than the base, so it ends after the second look."""
    job = braked(base, tmp_path, selections(base), oapl={"epochs": 20, "learning_rate": 1e-9}, brakes={"patience": 2})
    assert _attempts(job) is None
    first, second = read_trips(tmp_path)
    assert first["tripped"] == second["tripped"] == ["no_gain"]
    assert [look["step"] for look in first["looks"]] == [look["step"] for look in second["looks"]] == [4, 8]


@pytest.mark.parametrize("lora", [{"rank": 8, "alpha": 16}, None])
def test_looking_changes_nothing_and_a_killed_run_decides_alike(
    base: str, tmp_path: Path, restarted: Callable[..., Any], lora: dict[str, int] | None
) -> None:
    """Without a held-out score the last weights are kept: those of a run that nobody looks at, to the last bit."""
    settings = {"oapl": {"epochs": 2, "learning_rate": 0.003}, "lora": lora, "save_steps": 3}
    job = braked(base, tmp_path / "whole", selections(base), **settings, brakes={"scorer": None})
    straight = _attempts(job)
    assert straight is not None
    assert straight.metrics["brakes"]["best_step"] == straight.metrics["steps"] == 10
    free = _attempts(replace(job, out=str(tmp_path / "free"), settings={**job.settings, "brakes": None}))
    assert free is not None and same(weights_of(free.folder), weights_of(straight.folder))
    again = restarted(_attempts, replace(job, out=str(tmp_path / "killed")), 5)
    assert again is not None
    assert again.metrics["resumed_at"] == 3
    assert again.metrics["brakes"] == straight.metrics["brakes"]
    assert same(weights_of(again.folder), weights_of(straight.folder))


def test_a_stop_is_not_forgotten_by_a_process_that_resumes_at_its_checkpoint(base: str, tmp_path: Path) -> None:
    """Look and checkpoint share a step: the book says stop, the checkpoint does not."""
    limits = {"patience": 1, "scorer": "right", "max_kl": 1e9, "max_top_answer": 99.0}
    job = braked(base, tmp_path, selections(base), oapl={"epochs": 20, "learning_rate": 1e-9}, brakes=limits)
    brake = Brake(job)
    look = {"held": [0.5] * len(THINGS)}
    brake.book = {"base": look, "looks": [{"step": 4, "measured": look, "wires": []}]}
    state = TrainerState(global_step=5, max_steps=100)
    control = TrainerControl()
    brake.on_step_end(None, state, control)
    assert control.should_training_stop
    state.global_step, control.should_training_stop = 3, False  # resumed before that look
    brake.on_step_end(None, state, control)
    assert not control.should_training_stop


def test_looks_score_what_is_taken_out_of_an_answer(base: str, tmp_path: Path) -> None:
    job = braked(base, tmp_path, selections(base))
    assert job.project is not None
    job.project["generate"]["strategies"][0]["extract"] = {"kind": "after", "marker": "so:"}
    brake = Brake(job)
    row = brake.prompts[0]
    word = dict(zip(THINGS, WORDS, strict=True))[row["messages"][-1]["content"].split()[-1]]
    group = [Drawn([], f"hm so: {word}", True), Drawn([], word, True)]
    assert brake._held(row, group) == [1.0, 0.0]
    assert brake._rewards(row, [Drawn([], "so: e", True), Drawn([], "e so: a", True)]) == [1.0, 0.0]


@pytest.mark.parametrize(
    "inside", ["rft", "dpo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("kto", "grpo", "rloo"))]
)
def test_brakes_look_inside_the_trainers_of_trl(base: str, tmp_path: Path, inside: str) -> None:
    """TRL patches the model's forward; a look must read the log-probabilities that it reads in a plain trainer."""
    rows, entropy = selections(base), []
    for i, thing in enumerate(THINGS):
        rows += [row_of("chosen", thing, text=WORDS[i]), row_of("rejected", thing, text=WORDS[i - 1])]
        rows += [row_of("good", thing, text=WORDS[i]), row_of("bad", thing, text=WORDS[i - 1])]
    for algorithm in ("tao", inside):
        section = {"rft": "warmup", "tao": "oapl"}.get(algorithm, algorithm)
        length = {"steps": 3, "num_generations": 8} if algorithm in ("grpo", "rloo") else {"epochs": 1}
        settings = {section: {**length, "learning_rate": 0.003}, "brakes": {"every": 1, "scorer": None, **OPEN}}
        job = braked(base, tmp_path / algorithm, rows, algorithm, **settings)
        assert job.project is not None
        job.project["model"]["max_tokens"] = 48  # what is cut off teaches nothing, and this model ends an answer rarely
        result = _attempts(job)
        assert result is not None
        looks = result.metrics["brakes"]["looks"]
        assert looks[0]["step"] == 1 and looks[-1]["step"] == result.metrics["steps"], algorithm
        assert 0 < abs(looks[-1]["kl"]) < 50, algorithm
        entropy.append(result.metrics["brakes"]["base"]["entropy"])
    assert 0 < entropy[0] < 7
    assert entropy == pytest.approx([entropy[0]] * 2, abs=1e-4)


def test_canaries_are_asked_greedily(base: str, tmp_path: Path) -> None:
    lines = [{"messages": [{"role": "user", "content": "what is this"}], "answer": "never said"}] * 3
    (tmp_path / "canary.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {
        "oapl": {"epochs": 1, "learning_rate": 0.001},
        "brakes": {"canary": str(tmp_path / "canary.jsonl"), "scorer": None},
    }
    result = _attempts(braked(base, tmp_path, selections(base), **settings))
    assert result is not None
    assert result.metrics["brakes"]["base"]["canary"] == 0.0
    assert all(look["canary"] == 0.0 for look in result.metrics["brakes"]["looks"])


def test_brakes_without_prompts_to_look_at_are_refused(base: str, tmp_path: Path) -> None:
    job = braked(base, tmp_path, [])
    job_of(base, tmp_path, selections(base))  # the same file, without dev rows
    with pytest.raises(ValueError, match="no `dev` rows"):
        _attempts(job)
