"""What the algorithms over stored, scored answers share: rows as ids, the base's own log-probabilities, the regression.

Not an algorithm: `tao` and `bond` regress, `dpo` and `kto` compare. The reference of every ratio is the base that
generated the candidates. It is measured once, by the training engine and not by the one that generated
(huggingface/trl#6789), and kept with the job for a resumed run.
"""

import json
from collections.abc import Sequence
from typing import Any

from taolake.training import setup
from taolake.training.job import TrainJob, read_rows, write_atomic
from taolake.training.render import answer_ids, prompt_ids

_MEASURED = 512  # rows of the closing measurement: enough for a correlation, a fraction of an epoch


def rows_of(job: TrainJob, tokenizer: Any, *kinds: str) -> list[dict[str, Any]]:
    """Rows of these kinds, in file order, with `prompt_ids` and `token_ids`.

    Sampled ids stay as they are; an answer stored as text alone is rendered, with its end mark.
    """
    rows = [row for row in read_rows(job) if row["kind"] in kinds]
    rendered: dict[str, list[int]] = {}
    for row in rows:
        if row["prompt_id"] not in rendered:
            rendered[row["prompt_id"]] = prompt_ids(tokenizer, row["messages"])
        row["prompt_ids"] = rendered[row["prompt_id"]]
        row["token_ids"] = row["token_ids"] or (answer_ids(tokenizer, row["text"]) if row["text"] else [])
    return rows


def length(row: dict[str, Any]) -> int:
    """Tokens of prompt and answer."""
    return len(row["prompt_ids"]) + len(row["token_ids"])


def micro(job: TrainJob) -> int:
    """Rows of a forward pass."""
    return setup.micro_batch(job.settings["batch_size"], job.settings["micro_batch_size"])


def candidates(job: TrainJob, tokenizer: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Read the `regress` rows; says how many were left out.

    A row without weight teaches nothing, one without tokens has no probability, one that is too long cannot be scored
    as it was sampled.
    """
    rows = [row for row in rows_of(job, tokenizer, "regress") if row["weight"] > 0 and row["token_ids"]]
    kept = [row for row in rows if length(row) <= job.max_length]
    if not kept:
        raise ValueError(f"{job.rows} has {len(rows)} weighted `regress` rows, none within {job.max_length} tokens")
    different = folded(kept)
    return different, {"rows": len(kept), "different": len(different), "too_long": len(rows) - len(kept)}


def folded(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a prompt with the same tokens and advantage as one, with `copies` and their weights' sum.

    Short answers repeat: of 16 to one question often four are different. A weight is told in shares of what the mean
    row stands for, so that the mean loss over these rows is the mean loss over all.
    """
    first: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = (row["prompt_id"], tuple(row["token_ids"]), row["advantage"])
        known = first.setdefault(key, {**row, "copies": 0, "weight": 0.0})
        known["copies"] += 1
        known["weight"] += row["weight"]
    share = len(first) / len(rows)
    return [{**row, "weight": row["weight"] * share} for row in first.values()]


def add_reference(job: TrainJob, rows: Sequence[dict[str, Any]], pad_id: int, name: str = "reference") -> None:
    """Give every row the base's own log-probability, measured once and kept for a resumed run."""
    from taolake.training import oapl

    path = job.work / f"{name}.json"

    def measure() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(oapl.score(setup.policy(job), rows, pad_id, micro(job), name)))

    setup.made_once(path, measure)
    for row, value in zip(rows, json.loads(path.read_text(encoding="utf-8")), strict=True):
        row["reference"] = value


def regress(
    job: TrainJob, rows: list[dict[str, Any]], model: Any, pad_id: int, spec: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Run OAPL; returns the model and what was measured, at last on up to 512 rows with the finished weights.

    Args:
        job: says batch sizes, seed and folders.
        rows: candidates with advantage and reference.
        model: policy to train.
        pad_id: padding token.
        spec: `beta`, `clip`, `epochs` and `learning_rate`, from the algorithm's own section.
    """
    import torch
    from transformers import TrainingArguments

    from taolake.training import checkpoint, oapl

    train = job.settings
    batch = setup.step_rows(job, len(rows), sum(row["copies"] for row in rows))
    shared = setup.arguments(job, "oapl", spec["learning_rate"], batch, train["micro_batch_size"])
    args = TrainingArguments(**shared, num_train_epochs=1, remove_unused_columns=False)
    trainer = oapl.OAPLTrainer(model, args, rows, pad_id, spec["beta"], spec["clip"], spec["epochs"])
    metrics = checkpoint.train(trainer, "oapl", job)
    sample = rows[:: max(1, len(rows) // _MEASURED)][:_MEASURED]
    log_ratio = torch.tensor(oapl.score(model, sample, pad_id, micro(job), "measure"))
    log_ratio -= torch.tensor([row["reference"] for row in sample])
    limit = spec["clip"] * spec["beta"]
    advantage = torch.tensor([row["advantage"] for row in sample]).clamp(-limit, limit)
    copies = torch.tensor([float(row["copies"]) for row in sample])
    return model, {**metrics, **oapl.statistics(log_ratio, advantage, copies)}
