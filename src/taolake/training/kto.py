"""`kto`: answers called good or bad one by one, through TRL's KTOTrainer.

    loss = w_good * (1 - sigmoid(beta * (l - z)))  or  w_bad * (1 - sigmoid(beta * (z - l))),    l = log pi / pi_ref

z is the policy's distance from the reference, estimated on answers to other prompts (arXiv 2402.01306). The rarer side
weighs more, so that both pull alike. For rewards that say yes or no: a prompt needs no two answers that differ.
Importing this file loads no torch.
"""

import random
from typing import Any

from taolake.training import offline, setup
from taolake.training.job import TrainJob, TrainResult


def run(job: TrainJob) -> TrainResult:
    """Train on the `good` and `bad` rows and publish the adapter or model."""
    from datasets import Dataset
    from trl import KTOConfig

    from taolake.training import checkpoint
    from taolake.training.stored import VerdictTrainer

    tokenizer = setup.tokenizer(job.base)
    rows, counts = judged(job, tokenizer)
    others = mismatched(rows)
    offline.add_reference(job, rows, tokenizer.pad_token_id)
    offline.add_reference(job, others, tokenizer.pad_token_id, "reference-others")
    good, bad = balance(counts["good"], counts["bad"])
    spec, train = job.settings["kto"], job.settings
    shared = setup.arguments(job, "kto", spec["learning_rate"], train["batch_size"], train["micro_batch_size"])
    config = KTOConfig(
        **shared,
        num_train_epochs=spec["epochs"],
        beta=spec["beta"],
        desirable_weight=good,
        undesirable_weight=bad,
        precompute_ref_log_probs=True,
        max_length=None,
    )
    model, adapter = setup.parts(job)
    examples = [example(row, other) for row, other in zip(rows, others, strict=True)]
    trainer = VerdictTrainer(
        model,
        args=config,
        train_dataset=Dataset.from_list(examples),
        processing_class=tokenizer,
        peft_config=adapter,
    )
    metrics = checkpoint.train(trainer, "kto", job)
    folder, kind = setup.publish(trainer.model, tokenizer, job)
    tokens = round(spec["epochs"] * sum(map(offline.length, rows)))
    ends = checkpoint.ends(trainer, {"rewards/chosen": "reward_good", "rewards/rejected": "reward_bad"})
    return TrainResult(folder, kind, {**metrics, **counts, **ends, "tokens": tokens})


def judged(job: TrainJob, tokenizer: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows in the job's own random order, which the trainer keeps: neighbours lend each other their answers."""
    rows = [row for row in offline.rows_of(job, tokenizer, "good", "bad") if row["token_ids"]]
    kept = [row for row in rows if offline.length(row) <= job.max_length]
    counts = {kind: sum(row["kind"] == kind for row in kept) for kind in ("good", "bad")}
    if not all(counts.values()):
        raise ValueError(
            f"{job.rows} has {counts['good']} good and {counts['bad']} bad answers within {job.max_length} tokens, "
            "wanted some of each: move select.good and select.bad"
        )
    random.Random(job.seed).shuffle(kept)
    return kept, {"rows": len(kept), "too_long": len(rows) - len(kept), **counts}


def mismatched(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each prompt with the answer of the row before it: what the distance is estimated on."""
    return [{**row, "token_ids": rows[i - 1]["token_ids"]} for i, row in enumerate(rows)]


def balance(good: int, bad: int) -> tuple[float, float]:
    """Weights of good and bad answers: the rarer side is raised until both weigh the same (arXiv 2402.01306, eq. 8).

    >>> balance(10, 40)
    (4.0, 1.0)
    """
    return max(1.0, bad / good), max(1.0, good / bad)


def example(row: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """One answer as TRL's collator takes it."""
    return {
        "prompt_ids": row["prompt_ids"],
        "completion_ids": row["token_ids"],
        "KL_completion_ids": other["token_ids"],
        "label": row["kind"] == "good",
        "ref_logps": row["reference"],
        "ref_KL_logps": other["reference"],
    }
