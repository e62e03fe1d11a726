"""`dpo`: each prompt's best answer against the right loser, through TRL's DPOTrainer.

    loss = -log sigmoid(beta * (l_chosen - l_rejected)) - nll * log pi(chosen) / tokens,    l = log pi / pi_ref

The likelihood term keeps the winner's own probability from falling with the loser's (arXiv 2404.19733). Where pairs
may be in the wrong order the first term is the unbiased one of arXiv 2403.00409, with the share of such pairs. Which
answers make a pair is decided before (`taolake.selection.pairs`). Importing this file loads no torch.
"""

from statistics import fmean
from typing import Any

from taolake.training import offline, setup
from taolake.training.job import TrainJob, TrainResult


def run(job: TrainJob) -> TrainResult:
    """Train on the `chosen` and `rejected` rows and publish the adapter or model."""
    from datasets import Dataset
    from trl import DPOConfig

    from taolake.training import checkpoint
    from taolake.training.stored import PairTrainer

    tokenizer = setup.tokenizer(job.base)
    found, counts = pairs(job, tokenizer)
    sides = [side for pair in found for side in pair]
    offline.add_reference(job, sides, tokenizer.pad_token_id)
    spec, train = job.settings["dpo"], job.settings
    smoothing = noise(spec, [chosen["weight"] for chosen, _ in found])
    shared = setup.arguments(job, "dpo", spec["learning_rate"], train["batch_size"], train["micro_batch_size"])
    config = DPOConfig(
        **shared,
        num_train_epochs=spec["epochs"],
        beta=spec["beta"],
        loss_type=["robust" if smoothing else "sigmoid", "sft"],
        loss_weights=[1.0, spec["nll"]],
        label_smoothing=smoothing,
        precompute_ref_log_probs=True,
        max_length=None,
    )
    model, adapter = setup.parts(job)
    trainer = PairTrainer(
        model,
        args=config,
        train_dataset=Dataset.from_list([example(*pair) for pair in found]),
        processing_class=tokenizer,
        peft_config=adapter,
    )
    metrics = checkpoint.train(trainer, "dpo", job)
    folder, kind = setup.publish(trainer.model, tokenizer, job)
    tokens = round(spec["epochs"] * sum(map(offline.length, sides)))
    ends = checkpoint.ends(trainer, {"rewards/accuracies": "pair_accuracy", "rewards/margins": "margin"})
    return TrainResult(folder, kind, {**metrics, **counts, **ends, "noise": smoothing, "tokens": tokens})


def pairs(job: TrainJob, tokenizer: Any) -> tuple[list[tuple[dict[str, Any], dict[str, Any]]], dict[str, int]]:
    """Chosen and rejected row of every prompt that has both; says how many pairs were too long."""
    rows = offline.rows_of(job, tokenizer, "chosen", "rejected")
    losers = {row["prompt_id"]: row for row in rows if row["kind"] == "rejected"}
    found = [(row, losers[row["prompt_id"]]) for row in rows if row["kind"] == "chosen" and row["prompt_id"] in losers]
    kept = [pair for pair in found if max(map(offline.length, pair)) <= job.max_length]
    if not kept:
        raise ValueError(f"{job.rows} has {len(found)} pairs and none fits {job.max_length} tokens, wanted one")
    return kept, {"rows": len(kept), "too_long": len(found) - len(kept)}


def noise(spec: dict[str, Any], chances: list[float]) -> float:
    """Share of pairs in the wrong order: as the project says, or the mean doubt of the pairs' chances."""
    return float(spec["noise"]) if spec["noise"] is not None else round(1 - fmean(chances), 6)


def example(chosen: dict[str, Any], rejected: dict[str, Any]) -> dict[str, Any]:
    """One pair as TRL's collator takes it."""
    return {
        "prompt_ids": chosen["prompt_ids"],
        "chosen_ids": chosen["token_ids"],
        "rejected_ids": rejected["token_ids"],
        "ref_chosen_logps": chosen["reference"],
        "ref_rejected_logps": rejected["reference"],
    }
