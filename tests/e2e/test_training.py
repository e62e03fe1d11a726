"""Training on a two-layer model: what each algorithm must move, resume exactly, and hand on to vLLM and PEFT."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taolake.config import RewardModelScorer
from taolake.training.job import TrainJob, TrainResult
from taolake.training.launch import claim, launch
from taolake.training.render import end_id, prompt_ids
from taolake.training.reward_input import Reading
from tests.e2e.toy import (
    CHAT_TEMPLATE,
    THINGS,
    WORDS,
    job_of,
    messages_of,
    project_of,
    row_of,
    same,
    selections,
    tiny_llama,
    tokenizer_of,
    weights_of,
)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_llama(tmp_path_factory.mktemp("base"))


def test_padding_is_never_the_end_mark(base: str, tmp_path: Path) -> None:
    from taolake.training import setup

    tokenizer = tokenizer_of(base)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)
    assert setup.tokenizer(str(tmp_path)).pad_token == "<pad>"


# ---- imitation


def test_labels_hold_the_answer_and_its_end_mark_only(base: str) -> None:
    from taolake.training import rft

    tokenizer = tokenizer_of(base)
    made = rft.example(tokenizer, {"messages": messages_of("sky"), "text": "blue"})
    labels = [i for i in made["labels"] if i != -100]
    assert tokenizer.decode(labels) == "blue<eos>"  # the template's newline after it is not to be learnt
    assert made["labels"][: -len(labels)] == [-100] * (len(made["labels"]) - len(labels))
    assert made["input_ids"][: -len(labels)] == prompt_ids(tokenizer, messages_of("sky"))
    assert end_id(tokenizer) == tokenizer.eos_token_id


FOUR_BIT = {"rank": 16, "alpha": 64, "four_bit": True}


@pytest.mark.parametrize("lora", [{"rank": 16, "alpha": 64}, FOUR_BIT, None])
def test_imitation_teaches_the_winner_and_to_stop(base: str, tmp_path: Path, lora: dict[str, int] | None) -> None:
    from transformers import AutoModelForCausalLM

    from taolake.training import rft
    from taolake.training.merge import merge

    rows = [*selections(base), row_of("imitate", "sky", text="blue " * 80)]
    job = job_of(base, tmp_path, rows, "rft", lora=lora, warmup={"epochs": 60, "learning_rate": 0.003})
    result = rft.run(job)
    assert (result.metrics["rows"], result.metrics["too_long"]) == (8, 1)
    assert result.metrics["loss_last"] < result.metrics["loss_first"] / 4
    folder = str(merge(base, result.folder, tmp_path / "merged")) if lora else result.folder
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), tokenizer_of(folder)
    said = []
    for thing in THINGS:
        ids = tokenizer.apply_chat_template(messages_of(thing), add_generation_prompt=True, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=20, do_sample=False)
        said.append(tokenizer.decode(out[0, ids["input_ids"].shape[1] :]))
    assert said == [f"{word}<eos>" for word in WORDS]


def test_merged_model_equals_base_with_adapter(base: str, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from taolake.training import rft
    from taolake.training.merge import merge

    result = rft.run(job_of(base, tmp_path, selections(base), "rft", warmup={"epochs": 1, "learning_rate": 0.01}))
    assert result.metrics["steps"] == 1  # even a single step must move the weights
    merged = AutoModelForCausalLM.from_pretrained(merge(base, result.folder, tmp_path / "merged"))
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), result.folder)
    ids = torch.arange(10, 40)[None]
    assert torch.allclose(merged(ids).logits, adapted(ids).logits, atol=1e-5)
    assert not torch.allclose(merged(ids).logits, AutoModelForCausalLM.from_pretrained(base)(ids).logits, atol=1e-3)


# ---- OAPL


def test_log_probs_do_not_see_padding_or_prompts(base: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from taolake.training import oapl

    model = AutoModelForCausalLM.from_pretrained(base).eval()
    rows = [
        {"prompt_ids": [1, 7, 8, 9], "token_ids": [10, 11, 2]},
        {"prompt_ids": [1, 7], "token_ids": [12, 13, 14, 15, 16]},  # cut off: no end mark, and none is added
        {"prompt_ids": [1, 9, 9, 9, 9, 9], "token_ids": [2]},
    ]
    together = oapl.score(model, rows, pad_id=0, batch=3, stage="test")
    for row, value in zip(rows, together, strict=True):
        ids = torch.tensor([row["prompt_ids"] + row["token_ids"]])
        steps = torch.log_softmax(model(ids).logits[0, :-1], dim=-1).gather(1, ids[0, 1:, None])
        assert value == pytest.approx(steps[len(row["prompt_ids"]) - 1 :].sum().item(), abs=1e-4)


def test_candidates_that_cannot_teach_are_left_out(base: str, tmp_path: Path) -> None:
    from taolake.training import offline

    rows = [
        row_of("regress", "sky", token_ids=[10, 11, 2]),
        row_of("regress", "sky", token_ids=[10, 11, 12]),  # truncated by the length limit: kept as it was sampled
        row_of("regress", "sky", token_ids=[10, 2], weight=0.0),
        row_of("regress", "sky", token_ids=[]),
        row_of("regress", "sky", token_ids=[10] * 64),
        row_of("imitate", "sky", text="blue"),
    ]
    kept, counts = offline.candidates(job_of(base, tmp_path, rows), tokenizer_of(base))
    assert [row["token_ids"] for row in kept] == [[10, 11, 2], [10, 11, 12]]
    assert counts["rows"] == 2 and counts["too_long"] == 1


@pytest.mark.parametrize("lora", [{"rank": 8, "alpha": 16}, {"rank": 8, "alpha": 16, "four_bit": True}, None])
def test_log_ratios_follow_advantages(base: str, tmp_path: Path, lora: dict[str, int] | None) -> None:
    from taolake.training import tao

    rate = 0.005 if lora else 0.002
    job = job_of(base, tmp_path, selections(base), lora=lora, oapl={"epochs": 20, "learning_rate": rate})
    result = tao.run(replace(job, warmup=False))
    assert result.kind == ("adapter" if lora else "model")
    assert result.metrics["correlation"] > 0.9
    assert result.metrics["loss_last"] < result.metrics["loss_first"] / 4
    assert result.metrics["kl"] > 0 and result.metrics["kl_reverse"] > 0


def _oapl_steps(base: str, folder: Path, micro: int) -> list[tuple[float, float]]:
    from transformers import TrainingArguments

    from taolake.training import oapl, offline, setup

    job = job_of(base, folder, selections(base)[:-4], micro_batch_size=micro)
    tokenizer = tokenizer_of(base)
    rows, _ = offline.candidates(job, tokenizer)
    offline.add_reference(job, rows, tokenizer.pad_token_id)
    shared = setup.arguments(job, "oapl", 1e-3, 8, micro)
    args = TrainingArguments(**shared, num_train_epochs=1, remove_unused_columns=False)
    trainer = oapl.OAPLTrainer(setup.policy(job), args, rows, tokenizer.pad_token_id, 0.1, 10.0, epochs=1.5)
    trainer.train()
    return [(entry["loss"], entry["grad_norm"]) for entry in trainer.state.log_history if "loss" in entry]


def test_accumulation_does_not_change_the_step(base: str, tmp_path: Path) -> None:
    whole, split = _oapl_steps(base, tmp_path / "whole", 8), _oapl_steps(base, tmp_path / "split", 2)
    assert len(whole) == 7  # 36 rows, one and a half times, in steps of 8: the last one holds 6
    for one, other in zip(whole, split, strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def test_schedule_sees_every_row_equally_often() -> None:
    from taolake.training.oapl import Schedule

    lengths = [7, 3, 9, 4, 8]
    order = list(Schedule(lengths, step=2, epochs=2, seed=1))
    assert sorted(order) == sorted([*range(5), *range(5)])
    single = list(Schedule(lengths, step=1, epochs=2, seed=1))
    assert sorted(single[:5]) == sorted(single[5:]) == [*range(5)] and single[:5] != single[5:]
    assert order == list(Schedule(lengths, step=2, epochs=2, seed=1))
    assert order != list(Schedule(lengths, step=2, epochs=2, seed=2))
    assert all(lengths[a] <= lengths[b] for a, b in zip(order[::2], order[1::2], strict=True))
    assert len(Schedule(lengths, step=2, epochs=0.5, seed=1)) == 2


# ---- jobs in a child process


class _Killed(Exception):
    pass


def test_killed_job_resumes_to_the_very_same_weights(base: str, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from taolake.training import tao

    warm = {"epochs": 4, "learning_rate": 0.003}
    oapl = {"epochs": 2, "learning_rate": 0.003}
    job = job_of(base, tmp_path / "whole", selections(base), warmup=warm, oapl=oapl, save_steps=3)
    straight = tao.run(job)

    out = tmp_path / "killed"
    job = replace(job, out=str(out))

    def kill(line: str) -> None:
        if line == "PROGRESS oapl 5 10":
            raise _Killed

    with pytest.raises(_Killed):
        launch(job, kill)
    work = out / "work"
    torn = work / "oapl" / "checkpoint-6"  # what a kill in the middle of a save leaves
    torn.mkdir(exist_ok=True)
    (torn / "trainer_state.json").write_text('{"global_step": 6, "log_his', encoding="utf-8")
    assert (work / "oapl" / "checkpoint-3").exists() and (work / "warmup-result").exists()

    lines: list[str] = []
    result = launch(job, lines.append)
    assert result.metrics["resumed_at"] == 3
    assert not any(line.startswith("PROGRESS warmup") for line in lines) and "PROGRESS oapl 10 10" in lines
    assert same(weights_of(result.folder), weights_of(straight.folder))
    assert result.metrics["correlation"] == pytest.approx(straight.metrics["correlation"])
    assert not work.exists()

    assert launch(job, lambda line: pytest.fail("a finished job started again")) == result
    with pytest.raises(ValueError, match="take a new folder"):
        launch(replace(job, seed=job.seed + 1))
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), result.folder)
    assert list(adapted.peft_config) == ["default"]
    assert adapted.peft_config["default"].base_model_name_or_path == base
    assert tokenizer_of(result.folder).chat_template == CHAT_TEMPLATE


def test_child_dies_with_its_parent(tmp_path: Path) -> None:
    """A child that is past its imports and looks at nothing: only the signal can end it."""
    child = (
        "import sys, time; from pathlib import Path; from taolake.training import launch\n"
        "launch._die_with_parent(); Path(sys.argv[1]).write_text('ready'); time.sleep(60)"
    )
    code = (
        "import os, subprocess, sys; from taolake.training import launch\n"
        "env = {**os.environ, launch._PARENT: str(os.getpid())}\n"
        "subprocess.Popen([sys.executable, '-c', sys.argv[1], sys.argv[2]], env=env).wait()"
    )
    ready = tmp_path / "ready"
    parent = subprocess.Popen([sys.executable, "-c", code, child, str(ready)], env=_child_environment())
    listed = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    try:
        _wait(ready.exists)
        name = listed.read_text().split()[0]
    finally:
        parent.kill()
        parent.wait()
    _wait(lambda: not Path(f"/proc/{name}").exists() or "Z" in Path(f"/proc/{name}/stat").read_text().split()[2], 10)


def _wait(check: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := check():
            return found
        time.sleep(0.05)
    raise AssertionError(f"nothing happened in {seconds} s")


def _child_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def test_failing_child_shows_the_end_of_its_log(base: str, tmp_path: Path) -> None:
    job = job_of(base, tmp_path, [row_of("imitate", "sky", text="blue " * 80)], "rft")
    with pytest.raises(RuntimeError, match="none of up to 64 tokens"):
        launch(job)
    assert "none of up to 64 tokens" in (tmp_path / "train.log").read_text()


def test_job_survives_json() -> None:
    job = TrainJob("grpo", "base", "rows", "out", {"a": [1]}, 1, 2, "auto", False, {"name": "x"}, "reward")
    assert TrainJob.from_json(job.to_json()) == job


def test_light_files_load_no_torch() -> None:
    names = "job launch render setup offline rft tao bond dpo kto online grpo rloo reward merge"
    code = f"import sys\nfor n in {names!r}.split(): __import__('taolake.training.' + n)\n"
    code += "assert not {'torch', 'transformers', 'trl', 'pyspark'} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", code], check=True, env=_child_environment())


def test_four_bits_load_for_four_bit_jobs_alone(base: str, tmp_path: Path) -> None:
    """PEFT would import bitsandbytes for every adapter, which takes as long as half of torch."""
    job = job_of(base, tmp_path, [row_of("imitate", "sky", text="blue")], "rft")
    claim(tmp_path, job)
    code = "import importlib.util, sys; from taolake.training import launch\n"
    code += "assert importlib.util.find_spec('bitsandbytes') and launch.main(sys.argv[1:]) == 0\n"
    code += "assert 'peft' in sys.modules and 'bitsandbytes' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "job.json")], check=True, env=_child_environment())
    assert TrainResult.read(tmp_path).kind == "adapter"


# ---- reward model

_VLLM = """
import json, sys
from vllm import LLM, PoolingParams
folder, rows = sys.argv[1], json.loads(sys.argv[2])
llm = LLM(model=folder, runner="pooling", convert="classify", dtype="float32", enforce_eager=True, max_model_len=128)
out = llm.encode([{"prompt_token_ids": r} for r in rows], PoolingParams(use_activation=False), pooling_task="classify")
print("SCORES", json.dumps([o.outputs.data.flatten().tolist()[0] for o in out]))
"""


def _reward_job(base: str, folder: Path, **settings: Any) -> TrainJob:
    """Pairs in which the right colour wins; each prompt meets several losers, the last prompts are held out."""
    rows = []
    for i, thing in enumerate(THINGS * 3):
        for shift in range(1, 5):
            rejected = f"{WORDS[(i + shift) % len(WORDS)]} or not"
            part = "eval" if i >= 20 else "train"
            message = json.dumps(messages_of(f"{thing} {i}"))
            rows.append({"messages": message, "chosen": WORDS[i % 8], "rejected": rejected, "part": part})
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "pairs.parquet")
    spec = RewardModelScorer.model_validate({"kind": "reward_model", "name": "people", **settings})
    dump = spec.model_dump(mode="json")
    return TrainJob("reward", base, str(folder / "pairs.parquet"), str(folder), dump, 3, 64, "float32")


@pytest.fixture(scope="session")
def reward_model(base: str, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    from taolake.training import reward

    job = _reward_job(base, tmp_path_factory.mktemp("reward"), epochs=4, learning_rate=0.003, batch_size=8)
    return reward.run(job)


def test_reward_model_ranks_held_out_pairs(reward_model: TrainResult) -> None:
    assert reward_model.kind == "model"
    assert reward_model.metrics["eval_pairs"] == 16
    assert reward_model.metrics["eval_accuracy"] > 0.9


def test_reward_adapter_is_merged_with_its_head(base: str, tmp_path: Path) -> None:
    from taolake.training import reward

    job = _reward_job(base, tmp_path, epochs=4, learning_rate=0.01, batch_size=8, lora_rank=8)
    result = reward.run(job)
    assert result.metrics["eval_accuracy"] > 0.9
    parts, _ = reward.choices(job, tokenizer_of(base), Reading.of(result.folder))
    assert reward.accuracy(reward.load(result.folder), parts["eval"])["accuracy"] == result.metrics["eval_accuracy"]


@pytest.mark.slow  # what it compares changes with a library alone
def test_vllm_scores_what_hf_scores(reward_model: TrainResult) -> None:
    from taolake.training import reward

    tokenizer = tokenizer_of(reward_model.folder)
    answers = ["blue", "a long grey answer or not", "", "red " * 9, "green"]
    rows = [reward.render_for_reward(tokenizer, messages_of(THINGS[i]), a) for i, a in enumerate(answers)]
    assert len({len(row) for row in rows}) >= 4 and all(row[-1] == tokenizer.eos_token_id for row in rows)
    together = reward.score(reward.load(reward_model.folder), rows)
    switches = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    command = [sys.executable, "-c", _VLLM, reward_model.folder, json.dumps(rows)]
    done = subprocess.run(command, env={**os.environ, **switches}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(text for text in done.stdout.splitlines() if text.startswith("SCORES"))
    assert json.loads(line.removeprefix("SCORES")) == pytest.approx(together, abs=1e-4)


# ---- GRPO


def test_grpo_moves_the_weights(
    base: str, reward_model: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taolake.training import grpo

    (tmp_path / "toy_scorer.py").write_text(
        "def vowels(messages, answer):\n    return min(1.0, answer.count('e') / 4)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    scorers = [
        {"kind": "function", "name": "vowels", "target": "toy_scorer:vowels"},
        {"kind": "exact", "name": "key", "pattern": ""},
        {"kind": "agreement", "name": "same", "over": "key"},
        {"kind": "reward_model", "name": "people"},
    ]
    project = project_of(base, scorers, {"weights": {"vowels": 1, "same": 0.1, "people": 1}, "min_spread": 0})
    rows = [row_of("prompt", thing) for thing in THINGS[:3]] * 2
    settings = {"grpo": {"steps": 2, "num_generations": 4, "learning_rate": 0.01}, "batch_size": 32}
    job = job_of(base, tmp_path, rows, "grpo", **settings)
    whole = project.model_dump(mode="json", by_alias=True)
    result = grpo.run(replace(job, project=whole, reward_model={"people": reward_model.folder}))
    assert result.metrics["steps"] == 2 and result.metrics["prompts"] == 3
    assert 0 < result.metrics["reward_first"] < 1
    moved = [name for name, value in weights_of(result.folder).items() if "lora_B" in name and value.abs().max() > 0]
    assert moved


def test_grpo_abstains_with_the_whole_group(base: str) -> None:
    from taolake.training.online import FusedReward

    scorers = [{"kind": "regex", "name": "vowel", "pattern": "a"}]
    fused = FusedReward(project_of(base, scorers, {"weights": {"vowel": 1}, "min_scored": 2}), None)
    said = [[{"role": "assistant", "content": text}] for text in ("a", "b", "a", "a")]
    prompts = [messages_of("sky")] * 4
    assert fused(prompts, said, prompt_id=["p", "p", "q", "q"]) == [1.0, 0.0, None, None]
