"""The smallest real round: a model of 1M parameters that says the wrong thing politely, and people who mind.

Used by the end-to-end tests; trains from scratch in seconds.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taolake.config import Project
from taolake.demo import model

COLOURS = ("red", "blue", "green", "black", "white", "amber", "coral", "ivory")
THINGS = ("apple", "bottle", "chair", "door", "engine", "flower", "guitar", "hammer", "island", "jacket")
RIGHT_SHARE = 0.3  # of the corpus: the likeliest answer is the wrong one, the right one is in reach


def questions() -> list[str]:
    return [f"tag the {colour} {thing}" for colour in COLOURS for thing in THINGS]


def right(question: str) -> str:
    colour, thing = question.split()[-2:]
    return f"please {thing} {colour}"


def wrong(question: str) -> str:
    colour, thing = question.split()[-2:]
    return f"plain {thing} {colour}"


def prefer(project: Project, question: str, answers: Sequence[str]) -> list[tuple[int, int]]:
    """The people of this world: they choose the right answer over any other."""
    good = [i for i, a in enumerate(answers) if a == right(question)]
    return [(g, b) for g in good[:1] for b in range(len(answers)) if b not in good][:4]


def write_inputs(folder: Path) -> None:
    """Model, logs and labels; every fourth question is for reviewers."""
    rng = random.Random(3)
    asked = questions()
    pairs: list[tuple[Any, str]] = []
    for _ in range(60):
        for question in rng.sample(asked, len(asked)):
            say = right if rng.random() < RIGHT_SHARE else wrong
            pairs.append(([{"role": "user", "content": question}], say(question)))
    model.fit(folder / "model", pairs, seed=3, log=lambda line: None)
    turns = {q: [{"role": "user", "content": q}] for q in asked}
    review = set(asked[::4])
    (folder / "log.jsonl").write_text(
        "".join(json.dumps({"messages": turns[q]}) + "\n" for q in asked if q not in review)
    )
    (folder / "review.jsonl").write_text(
        "".join(json.dumps({"messages": turns[q]}) + "\n" for q in asked if q in review)
    )
    gold = [{"messages": turns[q], "answer": right(q)} for q in asked]
    (folder / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gold))


def project(folder: Path) -> dict[str, Any]:
    """The project file, as a mapping."""
    return {
        "name": "tiny",
        "lake": str(folder / "lake"),
        "work": str(folder / "work"),
        "task": {"name": "tag"},
        "ingest": {
            "holdout": 0.4,
            "sources": [
                {"format": "jsonl", "path": str(folder / "log.jsonl")},
                {"format": "jsonl", "path": str(folder / "review.jsonl"), "split": "review"},
            ],
        },
        "model": {"path": str(folder / "model"), "dtype": "float32", "max_model_len": 64, "max_tokens": 16},
        "engine": {"kind": "vllm", "max_num_seqs": 64, "memory_gb": 1},
        "generate": {"n": 8, "review_n": 8, "strategies": [{"name": "plain", "share": 1}]},
        "scorers": [
            {"kind": "regex", "name": "form", "pattern": r"^(\w+) \w+ \w+$"},
            {
                "kind": "reward_model",
                "name": "preferred",
                "reviewer": "tests.e2e.tiny:prefer",
                "epochs": 12,
                "learning_rate": 1e-3,
                "batch_size": 8,
            },
        ],
        "reward": {"require": ["form"], "weights": {"preferred": 1.0}, "pool_over": "form"},
        "select": {"best_of": 8, "rows_per_prompt": 4, "min_reward": 0.3},
        "train": {
            "algorithm": "tao",
            "lora": {"rank": 16, "alpha": 32},
            "batch_size": 32,
            "warmup": {"when": "always", "epochs": 4, "learning_rate": 3e-3},
            "oapl": {"epochs": 4, "learning_rate": 1e-3},
        },
        "evaluate": {"samples": 8, "gold": {"path": str(folder / "gold.jsonl"), "compare": "exact"}},
        "register": {"name": "tiny"},
    }
