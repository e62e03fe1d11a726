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

from taolake.config import Project, RewardModelScorer, Train
from taolake.training.job import TrainJob, TrainResult
from taolake.training.launch import launch, without
from taolake.training.render import answer_ids, end_id, prompt_ids
from taolake.training.reward_input import Reading

# Read when torch is first imported; spinning threads make small steps ten times slower on a machine that is shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
THINGS = ("sky", "grass", "rose", "snow", "coal", "sand", "sea", "sun")
WORDS = ("blue", "green", "red", "white", "black", "brown", "a long grey answer", "gold")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_llama(tmp_path_factory.mktemp("base"))


def tiny_llama(folder: Path) -> str:
    """An untrained Llama of two layers with a byte-level tokenizer; pad, bos and eos differ."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    with without("vllm", "sklearn", "scipy", "mlflow", "PIL"):
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
        from trl import GRPOTrainer, RewardTrainer, SFTTrainer  # noqa: F401
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<pad>", "<bos>", "<eos>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    bpe.train_from_iterator([*THINGS, *WORDS, "what colour is"] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        additional_special_tokens=special[3:],
        chat_template=CHAT_TEMPLATE,
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.1,
        dtype="float32",
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.lm_head.weight.data.normal_(std=0.3)  # LoRA leaves the head alone: an untrained one is too flat to steer
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _tokenizer(base: str) -> Any:
    from taolake.training import setup

    return setup.tokenizer(base)


def _messages(thing: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"what colour is {thing}"}]


def _row(kind: str, thing: str, **values: Any) -> dict[str, Any]:
    empty = {"text": "", "token_ids": [], "reward": 0.0, "advantage": 0.0, "weight": 1.0}
    return {"kind": kind, "prompt_id": thing, "messages": json.dumps(_messages(thing)), **empty, **values}


def _selections(base: str) -> list[dict[str, Any]]:
    """Winners to imitate, and for each prompt five candidates of which one is right."""
    tokenizer = _tokenizer(base)
    rows = [_row("imitate", thing, text=word) for thing, word in zip(THINGS, WORDS, strict=True)]
    for i, thing in enumerate(THINGS):
        for shift in range(5):
            advantage = 0.4 if shift == 0 else -0.1 * shift
            ids = answer_ids(tokenizer, WORDS[(i + shift) % len(WORDS)])
            rows.append(_row("regress", thing, token_ids=ids, advantage=advantage, reward=float(shift == 0)))
    return rows


def _job(base: str, folder: Path, rows: list[dict[str, Any]], algorithm: str = "tao", **settings: Any) -> TrainJob:
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), table)
    tiny = {"lora": {"rank": 8, "alpha": 16}, "batch_size": 8, "save_steps": 1000}
    dump = Train.model_validate({**tiny, **settings}).model_dump(mode="json")
    return TrainJob(algorithm, base, str(table), str(folder), dump, seed=3, max_length=64, dtype="float32")  # type: ignore[arg-type]


def _weights(folder: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    name = "adapter_model.safetensors" if Path(folder, "adapter_config.json").exists() else "model.safetensors"
    return load_file(Path(folder, name))  # type: ignore[no-any-return]


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


def test_padding_is_never_the_end_mark(base: str, tmp_path: Path) -> None:
    from taolake.training import setup

    tokenizer = _tokenizer(base)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)
    assert setup.tokenizer(str(tmp_path)).pad_token == "<pad>"


# ---- imitation


def test_labels_hold_the_answer_and_its_end_mark_only(base: str) -> None:
    from taolake.training import rft

    tokenizer = _tokenizer(base)
    made = rft.example(tokenizer, {"messages": _messages("sky"), "text": "blue"})
    labels = [i for i in made["labels"] if i != -100]
    assert tokenizer.decode(labels) == "blue<eos>"  # the template's newline after it is not to be learnt
    assert made["labels"][: -len(labels)] == [-100] * (len(made["labels"]) - len(labels))
    assert made["input_ids"][: -len(labels)] == prompt_ids(tokenizer, _messages("sky"))
    assert end_id(tokenizer) == tokenizer.eos_token_id


@pytest.mark.parametrize("lora", [{"rank": 16, "alpha": 64}, None])
def test_imitation_teaches_the_winner_and_to_stop(base: str, tmp_path: Path, lora: dict[str, int] | None) -> None:
    from transformers import AutoModelForCausalLM

    from taolake.training import rft
    from taolake.training.merge import merge

    rows = [*_selections(base), _row("imitate", "sky", text="blue " * 80)]
    job = _job(base, tmp_path, rows, "rft", lora=lora, warmup={"epochs": 60, "learning_rate": 0.003})
    result = rft.run(job)
    assert (result.metrics["rows"], result.metrics["too_long"]) == (8, 1)
    assert result.metrics["loss_last"] < result.metrics["loss_first"] / 4
    folder = str(merge(base, result.folder, tmp_path / "merged")) if lora else result.folder
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), _tokenizer(folder)
    said = []
    for thing in THINGS:
        ids = tokenizer.apply_chat_template(_messages(thing), add_generation_prompt=True, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=20, do_sample=False)
        said.append(tokenizer.decode(out[0, ids["input_ids"].shape[1] :]))
    assert said == [f"{word}<eos>" for word in WORDS]


def test_merged_model_equals_base_with_adapter(base: str, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from taolake.training import rft
    from taolake.training.merge import merge

    result = rft.run(_job(base, tmp_path, _selections(base), "rft", warmup={"epochs": 1, "learning_rate": 0.01}))
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
    from taolake.training import tao

    rows = [
        _row("regress", "sky", token_ids=[10, 11, 2]),
        _row("regress", "sky", token_ids=[10, 11, 12]),  # truncated by the length limit: kept as it was sampled
        _row("regress", "sky", token_ids=[10, 2], weight=0.0),
        _row("regress", "sky", token_ids=[]),
        _row("regress", "sky", token_ids=[10] * 64),
        _row("imitate", "sky", text="blue"),
    ]
    kept, counts = tao.candidates(_job(base, tmp_path, rows), _tokenizer(base))
    assert [row["token_ids"] for row in kept] == [[10, 11, 2], [10, 11, 12]]
    assert counts["rows"] == 2 and counts["too_long"] == 1


@pytest.mark.parametrize("lora", [{"rank": 8, "alpha": 16}, None])
def test_log_ratios_follow_advantages(base: str, tmp_path: Path, lora: dict[str, int] | None) -> None:
    from taolake.training import tao

    rate = 0.005 if lora else 0.002
    job = _job(base, tmp_path, _selections(base), lora=lora, oapl={"epochs": 20, "learning_rate": rate})
    result = tao.run(replace(job, warmup=False))
    assert result.kind == ("adapter" if lora else "model")
    assert result.metrics["correlation"] > 0.9
    assert result.metrics["loss_last"] < result.metrics["loss_first"] / 4
    assert result.metrics["kl"] > 0 and result.metrics["kl_reverse"] > 0


def _oapl_steps(base: str, folder: Path, micro: int) -> list[tuple[float, float]]:
    from transformers import TrainingArguments

    from taolake.training import oapl, setup, tao

    job = _job(base, folder, _selections(base)[:-4], micro_batch_size=micro)
    tokenizer = _tokenizer(base)
    rows, _ = tao.candidates(job, tokenizer)
    tao.add_reference(job, rows, tokenizer.pad_token_id)
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
    assert set(order[:5]) != set() and order == list(Schedule(lengths, step=2, epochs=2, seed=1))
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
    job = _job(base, tmp_path / "whole", _selections(base), warmup=warm, oapl=oapl, save_steps=3)
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
    assert _same(_weights(result.folder), _weights(straight.folder))
    assert result.metrics["correlation"] == pytest.approx(straight.metrics["correlation"])
    assert not work.exists()

    assert launch(job, lambda line: pytest.fail("a finished job started again")) == result
    with pytest.raises(ValueError, match="take a new folder"):
        launch(replace(job, seed=job.seed + 1))
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), result.folder)
    assert list(adapted.peft_config) == ["default"]
    assert adapted.peft_config["default"].base_model_name_or_path == base
    assert _tokenizer(result.folder).chat_template == CHAT_TEMPLATE


def test_child_dies_with_its_parent(base: str, tmp_path: Path) -> None:
    job = _job(base, tmp_path, _selections(base))
    (tmp_path / "given.json").write_text(job.to_json())
    code = "import sys; from taolake.training.launch import launch; from taolake.training.job import TrainJob\n"
    code += "launch(TrainJob.from_json(open(sys.argv[1]).read()))"
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "given.json")], env=_child_environment())
    listed = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    try:
        child = _wait(lambda: listed.read_text().split() if (tmp_path / "train.log").exists() else [])[0]
    finally:
        parent.kill()
        parent.wait()
    # Well before its imports are done: only the signal can have ended it.
    _wait(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2], 3)


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
    job = _job(base, tmp_path, [_row("imitate", "sky", text="blue " * 80)], "rft")
    with pytest.raises(RuntimeError, match="none fits 64 tokens"):
        launch(job)
    assert "none fits 64 tokens" in (tmp_path / "train.log").read_text()


def test_job_survives_json() -> None:
    job = TrainJob("grpo", "base", "rows", "out", {"a": [1]}, 1, 2, "auto", False, {"name": "x"}, "reward")
    assert TrainJob.from_json(job.to_json()) == job


def test_light_files_load_no_torch() -> None:
    names = "job launch render setup rft tao grpo reward merge"
    code = f"import sys\nfor n in {names!r}.split(): __import__('taolake.training.' + n)\n"
    code += "assert not {'torch', 'transformers', 'trl', 'pyspark'} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", code], check=True, env=_child_environment())


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
            message = json.dumps(_messages(f"{thing} {i}"))
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
    parts, _ = reward.choices(job, _tokenizer(base), Reading.of(result.folder))
    assert reward.accuracy(reward.load(result.folder), parts["eval"])["accuracy"] == result.metrics["eval_accuracy"]


def test_vllm_scores_what_hf_scores(reward_model: TrainResult) -> None:
    from taolake.training import reward

    tokenizer = _tokenizer(reward_model.folder)
    answers = ["blue", "a long grey answer or not", "", "red " * 9, "green"]
    rows = [reward.render_for_reward(tokenizer, _messages(THINGS[i]), a) for i, a in enumerate(answers)]
    assert len({len(row) for row in rows}) >= 4 and all(row[-1] == tokenizer.eos_token_id for row in rows)
    together = reward.score(reward.load(reward_model.folder), rows)
    switches = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    command = [sys.executable, "-c", _VLLM, reward_model.folder, json.dumps(rows)]
    done = subprocess.run(command, env={**os.environ, **switches}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(text for text in done.stdout.splitlines() if text.startswith("SCORES"))
    assert json.loads(line.removeprefix("SCORES")) == pytest.approx(together, abs=1e-4)


# ---- GRPO


def _project(base: str, scorers: list[dict[str, Any]], reward: dict[str, Any]) -> Project:
    return Project.model_validate(
        {
            "name": "toy",
            "lake": "lake",
            "work": "work",
            "task": {"name": "toy"},
            "ingest": {"sources": [{"format": "jsonl", "path": "x"}]},
            "model": {"path": base, "max_tokens": 6},
            "engine": {"kind": "fake"},
            "generate": {"strategies": [{"name": "plain", "share": 1}]},
            "scorers": [{"kind": "regex", "name": "judge", "pattern": "a"}, *scorers],
            "reward": reward,
            "evaluate": {"judge": "judge"},
            "register": {"name": "toy"},
        }
    )


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
    project = _project(base, scorers, {"weights": {"vowels": 1, "same": 0.1, "people": 1}, "min_spread": 0})
    rows = [_row("prompt", thing) for thing in THINGS[:3]] * 2
    settings = {"grpo": {"steps": 2, "num_generations": 4, "learning_rate": 0.01}, "batch_size": 32}
    job = _job(base, tmp_path, rows, "grpo", **settings)
    whole = project.model_dump(mode="json", by_alias=True)
    result = grpo.run(replace(job, project=whole, reward_model=reward_model.folder))
    assert result.metrics["steps"] == 2 and result.metrics["prompts"] == 3
    assert 0 < result.metrics["reward_first"] < 1
    moved = [name for name, value in _weights(result.folder).items() if "lora_B" in name and value.abs().max() > 0]
    assert moved


def test_grpo_abstains_with_the_whole_group(base: str) -> None:
    from taolake.training.grpo import FusedReward

    scorers = [{"kind": "regex", "name": "vowel", "pattern": "a"}]
    fused = FusedReward(_project(base, scorers, {"weights": {"vowel": 1}, "min_scored": 2}), None, None)
    said = [[{"role": "assistant", "content": text}] for text in ("a", "b", "a", "a")]
    prompts = [_messages("sky")] * 4
    assert fused(prompts, said, prompt_id=["p", "p", "q", "q"]) == [1.0, 0.0, None, None]
