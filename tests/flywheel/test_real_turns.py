"""Two turns of the flywheel on real parts, then a bad version: vLLM, TRL, MLflow, HTTP; a model trained in seconds.

In the first turn people ask to `tag` things, in the second also to `mark` them, which the base does as wrongly.
`test_turns.py` joins the same stages on the fake engine, without a server; 200 A/A runs are in `test_sequential.py`.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from taolake.demo import model
from tests.flywheel.wheel import Turn, Wheel, World, account, write

pytestmark = pytest.mark.slow  # two real rounds and eight starts of vLLM: a quarter of an hour on two cores

COLOURS = ("red", "blue", "green", "black", "white", "amber", "coral", "ivory")
THINGS = ("apple", "bottle", "chair", "door", "engine", "flower", "guitar", "hammer")
WORDS = {"tag": ("please", "plain"), "mark": ("kindly", "merely")}
RIGHT_SHARE = 0.3  # of the corpus: the likeliest answer is the wrong one, the right one is in reach
REQUESTS = 500
MOST = 120  # requests within which the bad version is gone


def questions(kind: str) -> list[str]:
    return [f"{kind} the {colour} {thing}" for colour in COLOURS for thing in THINGS]


def answer(question: str, right: bool = True) -> str:
    kind, _, colour, thing = question.split()
    return f"{WORDS[kind][not right]} {thing} {colour}"


def reviewed(question: str) -> bool:
    """Shown to reviewers, and asked by nobody else."""
    every = [*questions("tag"), *questions("mark")]
    return every.index(question) % 5 == 0


def prefer(project: Any, question: str, answers: list[str]) -> list[tuple[int, int]]:
    """The people of this world: they choose the right answer over any other."""
    good = [i for i, a in enumerate(answers) if a == answer(question)]
    return [(g, b) for g in good[:1] for b in range(len(answers)) if b not in good][:4]


def world(folder: Path) -> World:
    every = [*questions("tag"), *questions("mark")]
    rng = random.Random(3)
    pairs: list[tuple[Any, str]] = []
    for _ in range(60):
        for question in rng.sample(every, len(every)):
            said = answer(question, rng.random() < RIGHT_SHARE)
            pairs.append(([{"role": "user", "content": question}], said))
    model.fit(folder / "model", pairs, seed=3, log=lambda line: None)
    turns = {q: [{"role": "user", "content": q}] for q in every}
    review = "".join(json.dumps({"messages": turns[q]}) + "\n" for q in every if reviewed(q))
    (folder / "review.jsonl").write_text(review)
    gold = [{"messages": turns[q], "answer": answer(q)} for q in every]
    (folder / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gold))
    file = write(folder / "wheel.yml", project(folder))
    first, second = ([q for q in questions(kind) if not reviewed(q)] for kind in WORDS)
    return World(file, (first, [*first, *second]), lambda q, a: a == answer(q), answer)


def project(folder: Path) -> dict[str, Any]:
    """The project file, but for what `write` adds."""
    taste = {"kind": "reward_model", "name": "preferred", "reviewer": "tests.flywheel.test_real_turns:prefer"}
    return {
        "name": "wheel",
        "lake": str(folder / "lake"),
        "work": str(folder / "work"),
        "task": {"name": "tag"},
        "ingest": {
            "holdout": 0.4,
            "sources": [
                {"format": "inference_log", "path": "inference_log"},
                {"format": "jsonl", "path": str(folder / "review.jsonl"), "split": "review"},
            ],
            "curate": {"similarity": 1.0},  # one word makes another question here
        },
        "model": {"path": str(folder / "model"), "dtype": "float32", "max_model_len": 64, "max_tokens": 16},
        "engine": {"kind": "vllm", "max_num_seqs": 64, "memory_gb": 1},
        "generate": {"n": 8, "review_n": 8, "strategies": [{"name": "plain", "share": 1}]},
        "scorers": [
            {"kind": "regex", "name": "form", "pattern": r"^(\w+) \w+ \w+$"},
            taste | {"epochs": 8, "learning_rate": 1e-3, "batch_size": 8},
        ],
        "reward": {"require": ["form"], "weights": {"preferred": 1.0}, "pool_over": "form"},
        "select": {"best_of": 8, "rows_per_prompt": 4, "min_reward": 0.3},
        "train": {
            "algorithm": "tao",
            "lora": {"rank": 16, "alpha": 32},
            "batch_size": 32,
            "warmup": {"when": "always", "epochs": 4, "learning_rate": 3e-3},
            "oapl": {"epochs": 3, "learning_rate": 1e-3},
        },
        "evaluate": {"samples": 4, "gold": {"path": str(folder / "gold.jsonl"), "compare": "exact"}},
        "register": {"name": "wheel"},
    }


@pytest.fixture(scope="module")
def turned(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Everything, once."""
    wheel = Wheel(spark, world(tmp_path_factory.mktemp("wheel")))
    wheel.first()
    turns = [wheel.turn(1, REQUESTS), wheel.turn(2, REQUESTS)]
    return {"turns": turns, "planted": wheel.planted(MOST), "routes": wheel.routes}


def test_each_turn_is_better_on_the_holdout_or_the_gate_says_no(turned: dict[str, Any]) -> None:
    for turn in turned["turns"]:
        assert turn.gate["gain"]["low"] > 0 or not turn.gate["promoted"], turn.gate
    assert turned["turns"][0].gate["promoted"], turned["turns"][0].gate


def test_a_promoted_version_answers_everybody_at_once(turned: dict[str, Any]) -> None:
    """The gateway follows the registry: no restart lies between the decision and the next request."""
    turn: Turn
    for turn in turned["turns"]:
        if turn.gate["promoted"]:
            assert turn.canary["verdict"] == "promote", turn.canary
            assert list(turn.after) == [f"wheel/{turn.live}"]


def test_every_request_is_accounted_for(turned: dict[str, Any]) -> None:
    first, *_ = turned["turns"]
    # Each request is a payload and, by a thumb at least, a reaction.
    assert first.collected[0]["in"] >= 2 * REQUESTS and first.collected[0]["quarantined"] == 0
    for turn in turned["turns"]:
        for outcome in [*turn.collected, turn.ingested]:
            went, came = account(outcome)
            assert went == came


def test_a_version_that_refuses_is_gone_within_so_many_requests(turned: dict[str, Any]) -> None:
    planted, live = turned["planted"], turned["turns"][-1].live
    assert planted["verdict"] == "rollback" and planted["requests"] <= planted["asked"] <= MOST
    assert turned["routes"] == {live: 100}
    assert list(planted["after"]) == [f"wheel/{live}"]
