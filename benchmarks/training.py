"""Tokens per second of training over plain TRL with the same settings, in the same run, and whether the losses agree.

Imitation (`rft` beside SFTTrainer) and pairs (`dpo` beside DPOTrainer) on a Llama of random weights with an adapter.
Both arms take the same conversations, from rows to a saved adapter, each in a process of its own, in ABBA order. `loop`
is the trainer's own loop; `whole` the process from its start, with what it imports and prepares. Memory is the largest
resident one of the training process. `low` and `high` are the ratios of the worst and the best pair. What is not
shown: GPUs, large models, several processes; OAPL, which TRL does not have.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _form import Figure, run

HERE = Path(__file__).parent
FOLDER = Path("build/bench/training").resolve()
SEED = 7
PAIRS = 3
ROWS = 1024
BATCH = 32
LORA = {"rank": 16, "alpha": 32, "dropout": 0.0}
RATE = {"rft": 1e-3, "dpo": 1e-4}
TARGETS = {
    f"{name}.{figure}": target
    for name in RATE
    for figure, target in (("loop.ratio", (">=", 0.97)), ("loss_difference", ("<=", 1e-3)))
}


def measure(quick: bool) -> dict[str, Figure]:
    """Both algorithms, both arms in turns."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    pairs = questions(ROWS // (4 if quick else 1))
    make_model(pairs)
    return {name: compared(name, pairs, 1 if quick else PAIRS) for name in RATE}


def compared(name: str, rows: list[Any], pairs: int) -> dict[str, Figure]:
    """One algorithm: the pairs and what came of them."""
    job = job_of(name, rows)
    asked = plain_of(name, rows, job)
    arms: dict[str, Callable[[Path], dict[str, float]]] = {
        "taolake": lambda out: ours(job, out),
        "plain": lambda out: plain(asked, out),
    }
    taken: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    for pair in range(pairs):
        for arm in ("taolake", "plain") if pair % 2 == 0 else ("plain", "taolake"):
            found = watched(arms[arm], FOLDER / f"{name}-{arm}-{pair}")
            print(f"{name} {arm}: {found}", file=sys.stderr, flush=True)
            taken[arm].append(found)
    tokens = spent(name, rows)
    together = list(zip(taken["taolake"], taken["plain"], strict=True))
    gaps = [abs(mine[loss] - other[loss]) for mine, other in together for loss in ("loss_first", "loss_last")]
    figures: dict[str, Figure] = {"tokens": tokens, "steps": taken["plain"][0]["steps"], "loss_difference": max(gaps)}
    for clock in ("loop", "whole"):
        ratios = [other[clock] / mine[clock] for mine, other in together]
        figures[clock] = {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
        figures[clock] |= {
            f"{arm}_tokens_per_second": tokens / statistics.median(each[clock] for each in found)
            for arm, found in taken.items()
        }
    return figures | {f"{arm}_peak_mib": max(each["mib"] for each in found) for arm, found in taken.items()}


def ours(job: Any, out: Path) -> dict[str, float]:
    """The train stage's own process."""
    from dataclasses import replace

    from taolake.training.launch import launch

    said = launch(replace(job, out=str(out))).metrics
    return {"loop": said["seconds"], **{k: said[k] for k in ("loss_first", "loss_last", "steps")}}


def plain(asked: Path, out: Path) -> dict[str, float]:
    """Plain TRL in a process."""
    out.mkdir()
    with (out / "log").open("w") as log:
        command = [sys.executable, str(HERE / "_plain_trl.py"), str(asked), str(out)]
        quiet = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        subprocess.run(command, check=True, stdout=log, stderr=log, env=quiet)
    said = json.loads((out / "seen.json").read_text())
    return {"loop": said["seconds"], **{k: said[k] for k in ("loss_first", "loss_last", "steps")}}


def watched(arm: Callable[[Path], dict[str, float]], out: Path) -> dict[str, float]:
    """An arm's figures, with the seconds it took from outside and the largest memory of a process below this one."""
    import psutil

    peak, done = 0, threading.Event()

    def look() -> None:
        nonlocal peak
        while not done.wait(0.1):
            for child in psutil.Process().children(recursive=True):
                try:
                    peak = max(peak, child.memory_info().rss)
                except psutil.Error:  # it ended between the listing and the look
                    continue

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    began = time.monotonic()
    found = arm(out)
    seconds = time.monotonic() - began
    done.set()
    looking.join()
    return found | {"whole": seconds, "mib": round(peak / 2**20, 1)}


def questions(count: int) -> list[tuple[list[Any], str, str]]:
    """Conversations with a chosen and a rejected answer, no two the same: ours would pass over equal ones once."""
    from taolake.demo.questions import logged_questions

    every = {(q.text, q.sql): q for seed in (SEED, SEED + 1, SEED + 2) for q in logged_questions(seed)}
    asked = list(every.values())[:count]
    return [([{"role": "user", "content": q.text}], q.sql, f"{q.generic_sql} limit 1") for q in asked]


def make_model(rows: list[Any]) -> None:
    """A Llama of some 5 million parameters with random weights, and a tokenizer of these texts."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from taolake.demo.model import train_tokenizer

    tokenizer = train_tokenizer([(messages, answer) for messages, answer, _ in rows])
    torch.manual_seed(SEED)
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=768, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=512, dtype="float32", pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(FOLDER / "model")
    tokenizer.save_pretrained(FOLDER / "model")


def job_of(name: str, rows: list[Any]) -> Any:
    """The job of the train stage."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from taolake.config import Train
    from taolake.training.job import TrainJob

    table: list[dict[str, Any]] = []
    for number, (messages, chosen, rejected) in enumerate(rows):
        texts = {"imitate": chosen} if name == "rft" else {"chosen": chosen, "rejected": rejected}
        for kind, text in texts.items():
            shared = {"prompt_id": f"{number:05}", "messages": json.dumps(messages), "token_ids": None}
            table.append({"kind": kind, "text": text, "reward": 0.0, "advantage": None, "weight": 1.0, **shared})
    path = FOLDER / f"{name}.parquet"
    pq.write_table(pa.Table.from_pylist(table), path)
    spec = {"epochs": 1, "learning_rate": RATE[name]}
    section = {"warmup": {"when": "always", **spec}} if name == "rft" else {"dpo": {**spec, "noise": 0.0}}
    raw = {"algorithm": name, "lora": LORA, "batch_size": BATCH, **section}
    settings = Train.model_validate(raw).model_dump(mode="json")
    base = str(FOLDER / "model")
    return TrainJob(name, base, str(path), "", settings, seed=SEED, max_length=512, dtype="float32")  # type: ignore[arg-type]


def plain_of(name: str, rows: list[Any], job: Any) -> Path:
    """The same for plain TRL: its rows, and our arguments as its own."""
    from taolake.training import setup

    train = job.settings
    given = setup.arguments(job, name, RATE[name], train["batch_size"], train["micro_batch_size"])
    given |= {"num_train_epochs": 1, "max_length": None}
    made: list[dict[str, Any]] = []
    for messages, chosen, rejected in rows:
        sides = {"completion": chosen} if name == "rft" else {"chosen": chosen, "rejected": rejected}
        made.append({"prompt": messages} | {k: [{"role": "assistant", "content": v}] for k, v in sides.items()})
    if name == "dpo":
        spec = train["dpo"]
        given |= {"beta": spec["beta"], "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, spec["nll"]]}
        given |= {"precompute_ref_log_probs": True}
    lora = {"r": LORA["rank"], "lora_alpha": LORA["alpha"], "lora_dropout": LORA["dropout"]}
    path = FOLDER / f"{name}.json"
    asked = {"algorithm": name, "base": job.base, "rows": made, "arguments": given, "lora": lora}
    path.write_text(json.dumps(asked))
    return path


def spent(name: str, rows: list[Any]) -> int:
    """Tokens that are trained on: prompt and answer of every row, of both sides where there are two."""
    from taolake.training import setup
    from taolake.training.render import answer_ids, prompt_ids

    tokenizer = setup.tokenizer(str(FOLDER / "model"))
    found = 0
    for messages, *answers in rows:
        for answer in answers[: 1 if name == "rft" else 2]:
            found += len(prompt_ids(tokenizer, messages)) + len(answer_ids(tokenizer, answer))
    return found


if __name__ == "__main__":
    run("training", measure, TARGETS, [SEED])
