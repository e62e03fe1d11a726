"""The reward model: a Bradley-Terry scalar head over the base, trained on people's choices with TRL's RewardTrainer.

Not the scorer: the score stage sends `render_for_reward`'s ids to vLLM's pooling runner, which takes the value at the
last token. HF takes it at the last token that is not padding, so both agree as long as padding is not the end mark
(docs/design.md, section 6). Importing this file loads no torch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taolake.training import setup
from taolake.training.job import TrainJob, TrainResult, read_rows
from taolake.training.render import answer_ids, prompt_ids
from taolake.types import Message

Pair = dict[str, list[int]]


def render_for_reward(tokenizer: Any, messages: Sequence[Message], answer: str) -> list[int]:
    """Ids of a conversation with an answer, the end mark last: what the reward model is trained on and must be sent."""
    return prompt_ids(tokenizer, messages) + answer_ids(tokenizer, answer)


def run(job: TrainJob) -> TrainResult:
    """Train on the `train` pairs, measure on the `eval` pairs, and publish a whole model."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    from taolake.training import checkpoint

    tokenizer = setup.tokenizer(job.base)
    parts, too_long = pairs(job, tokenizer)
    if not parts["train"]:
        raise ValueError(f"{job.rows} has no `train` pair within {job.max_length} tokens, wanted one")
    model = head(job, tokenizer.pad_token_id)
    spec = job.settings
    shared = setup.arguments(job, "reward", spec["learning_rate"], spec["batch_size"], None)
    # Rewards are only defined up to a constant: the centring term picks the one near zero.
    config = RewardConfig(
        **shared, num_train_epochs=spec["epochs"], max_length=job.max_length, center_rewards_coefficient=0.01
    )
    rank = spec["lora_rank"]
    trainer = RewardTrainer(
        model,
        args=config,
        train_dataset=Dataset.from_list(parts["train"]),
        processing_class=tokenizer,
        peft_config=setup.lora_config(rank, 2 * rank, reward=True) if rank else None,
    )
    metrics = checkpoint.train(trainer, "reward")
    whole: Any = trainer.model.merge_and_unload() if rank else trainer.model
    held_out = {f"eval_{name}": value for name, value in accuracy(whole, parts["eval"]).items()}
    tokens = round(spec["epochs"] * sum(len(ids) for pair in parts["train"] for ids in pair.values()))
    seen = {"pairs": len(parts["train"]), "too_long": too_long, "tokens": tokens}
    folder, kind = setup.publish(whole, tokenizer, job)
    return TrainResult(folder, kind, {**metrics, **seen, **held_out})


def pairs(job: TrainJob, tokenizer: Any) -> tuple[dict[str, list[Pair]], int]:
    """Pairs as ids, by part, and how many were too long to be read whole."""
    parts: dict[str, list[Pair]] = {"train": [], "eval": []}
    too_long = 0
    for row in read_rows(job):
        pair = {
            f"{side}_ids": render_for_reward(tokenizer, row["messages"], row[side]) for side in ("chosen", "rejected")
        }
        if max(map(len, pair.values())) > job.max_length:
            too_long += 1
        else:
            parts[row["part"]].append(pair)
    return parts, too_long


def head(job: TrainJob, pad_id: int) -> Any:
    """The base with a new scalar head; the head is drawn from the job's seed."""
    from transformers import AutoModelForSequenceClassification, set_seed

    set_seed(job.seed)
    dtype = setup.weights_dtype(job, bool(job.settings["lora_rank"]))
    return AutoModelForSequenceClassification.from_pretrained(job.base, num_labels=1, pad_token_id=pad_id, dtype=dtype)


def score(model: Any, rows: Sequence[Sequence[int]], batch: int = 16) -> list[float]:
    """Reward of each row of ids, as HF computes it; padding is on the right and does not count."""
    import torch

    values: list[float] = []
    model.eval()
    pad = model.config.get_text_config().pad_token_id
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        width = max(map(len, some))
        ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in some], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in some], device=model.device)
        with torch.inference_mode():
            values += model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0].float().tolist()
    return values


def load(folder: str | Path) -> Any:
    """Load a trained reward model for scoring, on the GPU if there is one."""
    from transformers import AutoModelForSequenceClassification

    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype="auto")
    return model.to("cuda") if setup.has_gpu() else model


def accuracy(model: Any, held_out: Sequence[Pair]) -> dict[str, float | int | None]:
    """Share of held-out pairs in which the chosen answer scores higher (a tie is half), with their number."""
    chosen = score(model, [pair["chosen_ids"] for pair in held_out])
    rejected = score(model, [pair["rejected_ids"] for pair in held_out])
    right = sum(1.0 if c > r else 0.5 if c == r else 0.0 for c, r in zip(chosen, rejected, strict=True))
    return {"accuracy": right / len(held_out) if held_out else None, "pairs": len(held_out)}
