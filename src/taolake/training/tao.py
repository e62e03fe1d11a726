"""`tao`: a warm-up by weighted imitation, then OAPL with the same adapter over all scored on-policy candidates.

Not Databricks' unpublished recipe; an open reading of it ("our offline RL approach called TAO", arXiv 2509.21459;
docs/design.md, section 6). The reference of every ratio is the base that generated the candidates, also
after the warm-up: it is measured first, by this engine, and kept with the job.
"""

import json
from typing import Any

from taolake.training import rft, setup
from taolake.training.job import TrainJob, TrainResult, read_rows, write_atomic
from taolake.training.render import prompt_ids

_MEASURED = 512  # rows of the closing measurement: enough for a correlation, a fraction of an epoch


def run(job: TrainJob) -> TrainResult:
    """Train on `imitate` rows if the job says so, then on `regress` rows, and publish the adapter or model."""
    tokenizer = setup.tokenizer(job.base)
    rows, counts = candidates(job, tokenizer)
    add_reference(job, rows, tokenizer.pad_token_id)
    folder, before = rft.warm_up(job, tokenizer) if job.warmup else (None, {})
    model, metrics = regress(job, rows, setup.policy(job, folder), tokenizer.pad_token_id)
    path, kind = setup.publish(model, tokenizer, job)
    tokens = before.get("tokens", 0) + round(job.settings["oapl"]["epochs"] * sum(map(_length, rows)))
    return TrainResult(path, kind, {**metrics, **counts, "warmup": before, "tokens": tokens})


def candidates(job: TrainJob, tokenizer: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Read the `regress` rows with their prompts as ids; says how many were left out.

    A row without weight teaches nothing, one without tokens has no probability, one that is too long cannot be scored
    as it was sampled.
    """
    rows = [row for row in read_rows(job, "regress") if row["weight"] > 0 and row["token_ids"]]
    rendered: dict[str, list[int]] = {}
    for row in rows:
        if row["prompt_id"] not in rendered:
            rendered[row["prompt_id"]] = prompt_ids(tokenizer, row["messages"])
        row["prompt_ids"] = rendered[row["prompt_id"]]
    kept = [row for row in rows if _length(row) <= job.max_length]
    if not kept:
        raise ValueError(f"{job.rows} has {len(rows)} weighted `regress` rows, none within {job.max_length} tokens")
    return kept, {"rows": len(kept), "too_long": len(rows) - len(kept)}


def add_reference(job: TrainJob, rows: list[dict[str, Any]], pad_id: int) -> None:
    """Give every row the base's own log-probability, measured once and kept for a resumed run."""
    from taolake.training import oapl

    path = job.work / "reference.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        base = setup.policy(job)
        write_atomic(path, json.dumps(oapl.score(base, rows, pad_id, _micro(job), "reference")))
    for row, value in zip(rows, json.loads(path.read_text(encoding="utf-8")), strict=True):
        row["reference"] = value


def regress(job: TrainJob, rows: list[dict[str, Any]], model: Any, pad_id: int) -> tuple[Any, dict[str, Any]]:
    """Run OAPL; returns the model and what was measured, at last on up to 512 rows with the finished weights."""
    import torch
    from transformers import TrainingArguments

    from taolake.training import checkpoint, oapl

    spec, train = job.settings["oapl"], job.settings
    shared = setup.arguments(job, "oapl", spec["learning_rate"], train["batch_size"], train["micro_batch_size"])
    args = TrainingArguments(**shared, num_train_epochs=1, remove_unused_columns=False)
    trainer = oapl.OAPLTrainer(model, args, rows, pad_id, spec["beta"], spec["clip"], spec["epochs"])
    metrics = checkpoint.train(trainer, "oapl")
    sample = rows[:: max(1, len(rows) // _MEASURED)][:_MEASURED]
    log_ratio = torch.tensor(oapl.score(model, sample, pad_id, _micro(job), "measure"))
    log_ratio -= torch.tensor([row["reference"] for row in sample])
    limit = spec["clip"] * spec["beta"]
    advantage = torch.tensor([row["advantage"] for row in sample]).clamp(-limit, limit)
    return model, {**metrics, **oapl.statistics(log_ratio, advantage)}


def _length(row: dict[str, Any]) -> int:
    return len(row["prompt_ids"]) + len(row["token_ids"])


def _micro(job: TrainJob) -> int:
    return setup.micro_batch(job.settings["batch_size"], job.settings["micro_batch_size"])
