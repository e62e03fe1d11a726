"""What is right in the embedded example, as scorers that a benchmark plants; no project of a user has them.

`truth` runs an answer beside the query that the question was made from. `noisy` is the same with so much normal noise
that it orders a right and a wrong answer rightly four times in five; the noise belongs to the text, so that asking
again tells nothing new. Executors find this file because `here` puts its folder on their path.
"""

import functools
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from taolake.demo.questions import logged_questions, review_questions
from taolake.ids import prompt_id, split_of, unit_interval
from taolake.scoring.sql import same_result
from taolake.types import Message

ROOT = Path(__file__).parents[1]
_SHIFT = 1.19  # in deviations: the chance that N(1.19, 1) exceeds N(0, 1) is 0.80
_BASE = 0.5 * _SHIFT


def here() -> None:
    """Let Spark's workers and the training process import this folder; before the session starts."""
    found = [str(Path(__file__).parent.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(found)


def demo(folder: Path, seed: int) -> dict[str, Any]:
    """The embedded example's project file, with another seed and its own folders, and both scorers beside its own."""
    text = (ROOT / "conf/demo.yml").read_text(encoding="utf-8").replace("build/demo", str(folder))
    raw: dict[str, Any] = yaml.safe_load(text)
    options = {"seed": seed, "database": str(folder / "data/shop.db")}
    for name in ("truth", "noisy"):
        raw["scorers"].append({"kind": "function", "name": name, "target": f"_truth:{name}", "options": options})
    return raw | {"seed": seed}


def labels(folder: Path, raw: dict[str, Any]) -> str:
    """A file with the right query of every training prompt, and of no other."""
    seed, task, path = raw["seed"], raw["task"]["name"], folder / "labels.jsonl"
    lines = []
    for question in logged_questions(seed):
        turns: list[Message] = [{"role": "user", "content": question.text}]
        if split_of(prompt_id(task, turns), seed, raw["ingest"]["holdout"]) == "train":
            lines.append(json.dumps({"messages": turns, "answer": question.sql}) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def truth(messages: Sequence[Any], answer: str, seed: int, database: str) -> float | None:
    """1 where the answer gives the wanted result, else 0; None for a question that is not the example's."""
    wanted = _queries(seed).get(messages[-1]["content"])
    return None if wanted is None else float(same_result(database, wanted, answer))


def noisy(messages: Sequence[Any], answer: str, seed: int, database: str) -> float | None:
    """The truth seen through noise, squashed into 0 to 1."""
    right = truth(messages, answer, seed, database)
    return None if right is None else blurred(right, seed, messages[-1]["content"], answer)


def blurred(right: float, *key: Any) -> float:
    """What is seen of 0 or 1 through the noise that belongs to a key."""
    seen = _SHIFT * right + _normal(unit_interval("noise", *key))
    return 1 / (1 + math.exp(-2 * (seen - _BASE)))


@functools.cache
def _queries(seed: int) -> dict[str, str]:
    """The right query by question, of those people choose on too: there trust looks whether a reward has an opinion."""
    return {question.text: question.sql for question in (*logged_questions(seed), *review_questions(seed))}


def _normal(share: float) -> float:
    """The normal value below which this share of all lies."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(min(max(share, 1e-9), 1 - 1e-9))
