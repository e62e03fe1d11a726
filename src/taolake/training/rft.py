"""Weighted rejection fine-tuning (RAFT): imitate the winners on the bare prompt, with TRL's SFTTrainer.

Not argmax imitation: the `imitate` rows were drawn as a random best-of-k would draw them, with the order-statistic
weights C(i-1, k-1) / C(n, k), so every row counts once here and the weighted likelihood is the forward KL to the
best-of-k policy (docs/design.md, section 6). Alone it is the algorithm `rft`; before OAPL it is the warm-up.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from taolake.training import setup
from taolake.training.job import TrainJob, TrainResult, read_rows
from taolake.training.render import answer_ids, prompt_ids


def run(job: TrainJob) -> TrainResult:
    """Train on the `imitate` rows and publish the adapter or model."""
    tokenizer = setup.tokenizer(job.base)
    model, metrics = imitate(job, tokenizer, watched=True)
    folder, kind = setup.publish(model, tokenizer, job)
    return TrainResult(folder, kind, metrics)


def warm_up(job: TrainJob, tokenizer: Any) -> tuple[Path, dict[str, Any]]:
    """Imitate, and keep the weights on disk for the next algorithm; done once, whatever kills the job later."""
    folder = job.work / "warmup-result"
    if not folder.exists():
        model, metrics = imitate(job, tokenizer)  # every process takes its part
        weights = setup.whole_weights(model, job)

        def keep() -> None:
            # SFTTrainer patches the model's forward (fused LM head), so the next trainer must load its own.
            partial = setup.save(model, tokenizer, job, folder.with_name("warmup-saved"), weights)
            (partial / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
            partial.rename(folder)

        setup.made_once(folder, keep)
    return folder, json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def imitate(job: TrainJob, tokenizer: Any, watched: bool = False) -> tuple[Any, dict[str, Any]]:
    """Run SFTTrainer over the rows, with the job's brakes or without; returns the model and what was measured."""
    from datasets import Dataset
    from trl import SFTConfig

    from taolake.training import checkpoint
    from taolake.training.sft import WinnerTrainer

    rows = read_rows(job, "imitate")
    examples = [example(tokenizer, row) for row in rows]
    kept = [e for e in examples if len(e["input_ids"]) <= job.max_length]
    if not kept:
        raise ValueError(
            f"got {len(rows)} winners to imitate and none of up to {job.max_length} tokens, wanted one: lower "
            "select.min_reward, or raise model.max_model_len"
        )
    spec, train = job.settings["warmup"], job.settings
    different = folded(kept)
    batch = setup.step_rows(job, len(different), len(kept))
    shared = setup.arguments(job, "warmup", spec["learning_rate"], batch, train["micro_batch_size"])
    config = SFTConfig(**shared, num_train_epochs=spec["epochs"], max_length=None)
    trainer = WinnerTrainer(
        setup.policy(job), args=config, train_dataset=Dataset.from_list(different), processing_class=tokenizer
    )
    metrics = checkpoint.train(trainer, "warmup", job if watched else None)
    tokens = round(spec["epochs"] * sum(len(e["input_ids"]) for e in different))
    counts = {"rows": len(kept), "different": len(different), "too_long": len(rows) - len(kept)}
    return trainer.model, {**metrics, **counts, "tokens": tokens}


def example(tokenizer: Any, row: dict[str, Any]) -> dict[str, list[int]]:
    """One row as ids with labels on the answer and its end mark only.

    Rendered here and not by SFTTrainer, so that the end mark is in the labels whatever the template writes after it,
    and nothing is cut off at the end.
    """
    prompt, answer = prompt_ids(tokenizer, row["messages"]), answer_ids(tokenizer, row["text"])
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def folded(examples: list[dict[str, list[int]]]) -> list[dict[str, Any]]:
    """Equal examples as one, with the `weight` of its copies: relative to what the mean answer token stands for."""
    copies: Counter[tuple[tuple[int, ...], ...]] = Counter(tuple(map(tuple, e.values())) for e in examples)
    different = [dict(zip(("input_ids", "labels"), map(list, key), strict=True)) for key in copies]
    answers = [sum(label != -100 for label in e["labels"]) for e in different]
    drawn = sum(n * c for n, c in zip(answers, copies.values(), strict=True))
    return [{**e, "weight": c * sum(answers) / drawn} for e, c in zip(different, copies.values(), strict=True)]
