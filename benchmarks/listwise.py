"""Best-of-N choices: does a softmax over the whole choice teach a reward model more than the pairs it is made of?

    python benchmarks/listwise.py --json build/bench/listwise.json [--quick]

On the embedded example: its base model answers the review questions, its simulated reviewer (who errs in 5 % of the
cases) picks one of all that were shown, and two reward models learn from the same choices over the same epochs and as
many steps: `listwise` as choices, `pairs` as (chosen, other) pairs. Measured on prompts kept apart: how often the
highest scored answer is right, where a right and a wrong one were shown. Not people's choices, and not a whole round.
"""

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _form import Figure, run

from taolake import ids
from taolake.config import RewardModelScorer
from taolake.demo import model as demo_model
from taolake.demo import questions, reviewer
from taolake.demo.assets import messages_of
from taolake.demo.database import build_database
from taolake.training.job import TrainJob
from taolake.training.launch import launch
from taolake.verdict import bootstrap, paired_gain

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build/bench/listwise"
SEEDS = [7, 8, 9]
SHOWN = 12  # answers drawn for each question; equal ones are shown once
HELD_OUT = 0.4
RESAMPLES = 5000
# More than five points worse would be harm; the gain itself is reported with its interval.
TARGETS = {"gain.low": (">", -0.05)}
LOSSES = ("pairs", "listwise")

Row = dict[str, Any]
Shown = tuple[questions.Question, list[str], list[int]]  # question, answers, positions of the right ones


def measure(quick: bool) -> dict[str, Figure]:
    """Run every seed; intervals resample prompts of all seeds together."""
    found = {seed: one_seed(seed, quick) for seed in (SEEDS[:1] if quick else SEEDS)}
    pooled = {loss: [hit for each in found.values() for hit in each[loss]] for loss in (*LOSSES, "drawn")}
    return {
        **{loss: bootstrap(values, RESAMPLES, 0)._asdict() for loss, values in pooled.items()},
        "gain": paired_gain(pooled["pairs"], pooled["listwise"], RESAMPLES, 0)._asdict(),
        "held_out_prompts": len(pooled["pairs"]),
        "seed": {
            str(seed): {loss: sum(each[loss]) / len(each[loss]) for loss in (*LOSSES, "drawn")} | each["facts"]
            for seed, each in found.items()
        },
    }


def one_seed(seed: int, quick: bool) -> dict[str, Any]:
    """Hits per held-out prompt for either loss, and for an answer drawn blindly."""
    base = ROOT / f"build/cache/model-{demo_model.model_key(seed)}"
    if not base.exists():
        demo_model.pretrain(base, seed)
    FOLDER.mkdir(parents=True, exist_ok=True)
    database = FOLDER / "shop.db"
    if not database.exists():
        build_database(database)
    asked = questions.review_questions(seed)[: 80 if quick else None]
    shown = [(q, a, reviewer.judge(q, a, database)[0]) for q, a in zip(asked, answer(base, asked, seed), strict=True)]
    rows = choices(shown, database, seed)
    held = [s for s in shown if is_held_out(s[0]) and 0 < len(s[2]) < len(s[1])]
    hits: dict[str, Any] = {"drawn": [len(right) / len(answers) for _, answers, right in held]}
    facts: dict[str, Figure] = {"choices": len({row["choice"] for row in rows}), "pairs_taught": len(rows)}
    for loss in LOSSES:
        trained = launch(job_of(loss, str(base), rows, seed, 1 if quick else 4))
        hits[loss] = first_right(trained.folder, held)
        facts |= {f"{loss}_steps": trained.metrics["steps"], f"{loss}_as_chosen": trained.metrics["eval_top1"]}
    return hits | {"facts": facts}


def is_held_out(question: questions.Question) -> bool:
    """Whether a question measures; decided by its text."""
    return ids.unit_interval("listwise", question.text) < HELD_OUT


def answer(base: Path, asked: Sequence[questions.Question], seed: int) -> list[list[str]]:
    """Different answers to each question, drawn from the base model at temperature 1."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    torch.manual_seed(seed)
    found: list[list[str]] = []
    for start in range(0, len(asked), 16):
        turns = [messages_of(question) for question in asked[start : start + 16]]
        inputs = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
        )
        with torch.no_grad():
            out = model.generate(
                **inputs, do_sample=True, top_k=0, top_p=1.0, num_return_sequences=SHOWN, max_new_tokens=96
            )
        texts = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        found += [list(dict.fromkeys(texts[i : i + SHOWN])) for i in range(0, len(texts), SHOWN)]
    return found


def choices(shown: Sequence[Shown], database: Path, seed: int) -> list[Row]:
    """What the reviewer chose, a row for each other answer; held-out questions are the `eval` part."""
    rows: list[Row] = []
    for question, answers, _ in shown:
        rng = random.Random(f"{seed} {question.text}")
        for best, others in reviewer.choose(question, answers, database, rng):
            about = {
                "prompt_id": question.text,
                "messages": json.dumps(messages_of(question)),
                "chosen": answers[best],
                "part": "eval" if is_held_out(question) else "train",
                "choice": ids.content_hash(question.text),
                "strength": 1.0,
                "context": "",
            }
            rows += [about | {"rejected": answers[other]} for other in others]
    return rows


def job_of(loss: str, base: str, rows: Sequence[Row], seed: int, epochs: int) -> TrainJob:
    """A reward model as the embedded example trains it, with one loss or the other."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = FOLDER / f"{loss}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / "pairs.parquet")
    spec = {"kind": "reward_model", "name": "preferred", "loss": loss, "epochs": epochs, "learning_rate": 3e-4}
    settings = RewardModelScorer.model_validate(spec).model_dump(mode="json")
    return TrainJob("reward", base, str(folder / "pairs.parquet"), str(folder), settings, seed, 256, "float32")


def first_right(folder: str, held: Sequence[Shown]) -> list[float]:
    """Whether the answer that is scored highest is right, question by question; ties share."""
    from taolake.training.reward import Loaded

    model, hits = Loaded(folder), []
    for question, answers, right in held:
        scores = model(messages_of(question), answers)
        top = [i for i, score in enumerate(scores) if score == max(scores)]
        hits.append(sum(i in right for i in top) / len(top))
    return hits


if __name__ == "__main__":
    run("listwise", measure, TARGETS, SEEDS)
