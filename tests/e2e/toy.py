"""An untrained model of two layers, rows to train it on, and jobs: what the tests of training share."""

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from taolake.config import Project, Train
from taolake.imports import without
from taolake.training.job import TrainJob
from taolake.training.render import answer_ids

# Read when torch is first imported; spinning threads make small steps ten times slower on a machine that is shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
THINGS = ("sky", "grass", "rose", "snow", "coal", "sand", "sea", "sun")
WORDS = ("blue", "green", "red", "white", "black", "brown", "a long grey answer", "gold")


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


def tokenizer_of(base: str) -> Any:
    from taolake.training import setup

    return setup.tokenizer(base)


def messages_of(thing: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"what colour is {thing}"}]


def row_of(kind: str, thing: str, **values: Any) -> dict[str, Any]:
    """A row as `select` writes it: what its kind has no use for is null."""
    scored = None if kind == "prompt" else 0.0
    weight = None if kind == "prompt" else 1.0
    empty = {"text": None, "token_ids": None, "reward": scored, "advantage": None, "weight": weight}
    return {"kind": kind, "prompt_id": thing, "messages": json.dumps(messages_of(thing)), **empty, **values}


def selections(base: str) -> list[dict[str, Any]]:
    """Winners to imitate, and for each prompt five candidates of which one is right."""
    tokenizer = tokenizer_of(base)
    rows = [row_of("imitate", thing, text=word) for thing, word in zip(THINGS, WORDS, strict=True)]
    for i, thing in enumerate(THINGS):
        for shift in range(5):
            advantage = 0.4 if shift == 0 else -0.1 * shift
            ids = answer_ids(tokenizer, WORDS[(i + shift) % len(WORDS)])
            rows.append(row_of("regress", thing, token_ids=ids, advantage=advantage, reward=float(shift == 0)))
    return rows


def job_of(base: str, folder: Path, rows: list[dict[str, Any]], algorithm: str = "tao", **settings: Any) -> TrainJob:
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), table)
    tiny = {"lora": {"rank": 8, "alpha": 16}, "batch_size": 8, "save_steps": 1000}
    dump = Train.model_validate({**tiny, **settings}).model_dump(mode="json")
    return TrainJob(algorithm, base, str(table), str(folder), dump, seed=3, max_length=64, dtype="float32")  # type: ignore[arg-type]


def weights_of(folder: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    name = "adapter_model.safetensors" if Path(folder, "adapter_config.json").exists() else "model.safetensors"
    return load_file(Path(folder, name))  # type: ignore[no-any-return]


def losses(job: TrainJob) -> list[float]:
    """What the trainer printed, step by step."""
    return [float(v) for v in re.findall(r"'loss': '?([-+.e\d]+)", Path(job.out, "train.log").read_text())]


def wait_for_two_checkpoints(job: TrainJob, runs: Callable[[], bool]) -> None:
    """Of the regression, one of them whole: the moment to kill something."""
    deadline = time.monotonic() + 200
    while len(list(job.work.glob("oapl/checkpoint-*/trainer_state.json"))) < 2:
        assert runs() and time.monotonic() < deadline
        time.sleep(0.02)


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all((a[name] == b[name]).all() for name in a)


def project_of(base: str, scorers: list[dict[str, Any]], reward: dict[str, Any]) -> Project:
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
