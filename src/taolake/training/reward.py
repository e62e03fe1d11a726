"""The reward model: a scalar head over a backbone, trained on people's choices with TRL's RewardTrainer.

`pairs` is Bradley-Terry on (chosen, rejected); `listwise` is a softmax over everything that was shown in a choice, and
`length_control` fits the pull of length beside the score and drops it (`taolake.training.choice_trainer`). The backbone
is a decoder or an encoder (`taolake.training.reward_input`). Not the scorer: the score stage sends the same ids to
vLLM's pooling runner, which takes a decoder's value at the last token. HF takes it at the last token that is not
padding, so both agree as long as padding is not the end mark (docs/design.md, section 6). Importing this file loads no
torch.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taolake.training import reward_metrics, setup
from taolake.training.job import TrainJob, TrainResult, read_rows
from taolake.training.reward_input import Reading, is_encoder, longest, render_for_reward, tokenizer_of
from taolake.types import Message

__all__ = ["Choice", "Loaded", "accuracy", "choices", "head", "load", "render_for_reward", "run", "score"]


@dataclass(frozen=True)
class Choice:
    """One act of choosing, as ids: the chosen answer first; `strengths` of it over each other, `lengths` of all."""

    prompt: str
    answers: tuple[list[int], ...]
    strengths: tuple[float, ...]
    lengths: tuple[int, ...]

    def pairs(self) -> "list[Choice]":
        """The same as choices between two."""
        return [
            Choice(self.prompt, (self.answers[0], self.answers[i + 1]), (s,), (self.lengths[0], self.lengths[i + 1]))
            for i, s in enumerate(self.strengths)
        ]


def run(job: TrainJob) -> TrainResult:
    """Train on the `train` choices, measure on the `eval` ones, and publish a whole model."""
    from taolake.training import checkpoint

    tokenizer = tokenizer_of(job.base)
    reading = Reading(job.settings.get("context_text", ""), longest(job.base, tokenizer, job.max_length))
    parts, too_long = choices(job, tokenizer, reading)
    if not parts["train"]:
        raise ValueError(f"{job.rows} has no `train` pair within {job.max_length} tokens, wanted one")
    spec = job.settings
    if spec.get("loss", "pairs") == "pairs":
        parts["train"] = [pair for choice in parts["train"] for pair in choice.pairs()]
    trainer = _trainer(job, tokenizer, parts)
    metrics = checkpoint.train(trainer, "reward")
    if spec.get("length_control"):
        metrics["length_pull"] = trainer.pull
        trainer.bare()
    whole: Any = trainer.model.merge_and_unload() if spec["lora_rank"] else trainer.model
    held_out = {f"eval_{name}": value for name, value in accuracy(whole, parts["eval"], job.seed).items()}
    pairs = sum(len(choice.strengths) for choice in parts["train"])
    tokens = round(trainer.state.epoch * sum(len(ids) for choice in parts["train"] for ids in choice.answers))
    seen = {"pairs": pairs, "choices": len(parts["train"]), "too_long": too_long, "tokens": tokens}
    folder, kind = setup.publish(whole, tokenizer, job)
    reading.write(folder)
    return TrainResult(folder, kind, {**metrics, **seen, **held_out})


def _trainer(job: TrainJob, tokenizer: Any, parts: dict[str, list[Choice]]) -> Any:
    """TRL's own trainer for plain pairs, ours for the rest; both stop early where the spec says so."""
    from datasets import Dataset
    from transformers import EarlyStoppingCallback
    from trl import RewardConfig, RewardTrainer

    spec = job.settings
    plain = spec.get("loss", "pairs") == "pairs" and not spec.get("length_control")
    rows = _rows(parts, spec, plain)
    rank, patience = spec["lora_rank"], spec.get("patience", 0) if rows["eval"] else 0
    per_choice = sum(len(c.strengths) for c in parts["train"]) / len(parts["train"])
    batch = max(1, min(len(parts["train"]), round(spec["batch_size"] / per_choice)))
    shared = setup.arguments(job, "reward", spec["learning_rate"], batch, None)
    best = {
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": "accuracy",
        "greater_is_better": True,
    }
    config = RewardConfig(
        **shared | (best if patience else {}),
        num_train_epochs=spec["epochs"],
        max_length=None,  # what is too long was left out above, and counted
        # Rewards are only defined up to a constant: the centring term picks the one near zero.
        center_rewards_coefficient=spec.get("centre", 0.01) or None,
        remove_unused_columns=False,  # `longest` is for the sampler
        # An encoder reads whole conversations, of any length: like lengths together need less padding.
        train_sampling_strategy="group_by_length" if is_encoder(tokenizer) else "random",
        length_column_name="longest",
    )
    given: dict[str, Any] = {
        "model": head(job, tokenizer.pad_token_id),
        "args": config,
        "train_dataset": Dataset.from_list(rows["train"]),
        "eval_dataset": Dataset.from_list(rows["eval"]) if patience else None,
        "processing_class": tokenizer,
        "peft_config": setup.lora_config(rank, 2 * rank, reward=True) if rank else None,
        "callbacks": [EarlyStoppingCallback(patience)] if patience else None,
    }
    if plain:
        return RewardTrainer(**given)
    from taolake.training.choice_trainer import ChoiceCollator, ChoiceTrainer

    pull = reward_metrics.length_pull([row["lengths"] for row in rows["train"]]) if spec["length_control"] else None
    return ChoiceTrainer(**given, data_collator=ChoiceCollator(tokenizer.pad_token_id), pull=pull)


def _rows(parts: dict[str, list[Choice]], spec: dict[str, Any], plain: bool) -> dict[str, list[dict[str, Any]]]:
    """Choices as the trainers read them: TRL's columns for plain pairs, several rejected answers for the rest."""
    scale = reward_metrics.length_scale([choice.lengths for choice in parts["train"]])
    margin = spec.get("margin", 0.0)

    def row(choice: Choice) -> dict[str, Any]:
        chosen, *others = choice.answers
        shared = {"chosen_ids": chosen, "longest": max(map(len, choice.answers))}
        margins = [margin * strength for strength in choice.strengths]
        if plain:
            return shared | {"rejected_ids": others[0]} | ({"margin": margins[0]} if margin else {})
        lengths = reward_metrics.standardised(choice.lengths, scale)
        return shared | {"rejected_ids": others, "margins": margins, "lengths": lengths}

    pairwise = spec.get("loss", "pairs") == "pairs"
    return {
        part: [row(c) for choice in some for c in (choice.pairs() if pairwise else [choice])]
        for part, some in parts.items()
    }


def choices(job: TrainJob, tokenizer: Any, reading: Reading) -> tuple[dict[str, list[Choice]], int]:
    """Choices as ids, by part, and how many pairs were too long to be read whole.

    Rows are one pair each; those of one `choice` with the same chosen answer belong together. A row may bring its own
    `context`, as where several tasks share a model.
    """
    found: dict[Any, tuple[str, dict[str, Any], list[tuple[list[int], float, int]]]] = {}
    too_long = 0
    for number, row in enumerate(read_rows(job)):
        context = row.get("context")
        asked = Reading(reading.context if context is None else context, reading.max_length)
        chosen, rejected = (asked.ids(tokenizer, row["messages"], row[side]) for side in ("chosen", "rejected"))
        if max(len(chosen), len(rejected)) > job.max_length:
            too_long += 1
            continue
        sizes = [len(tokenizer(row[side], add_special_tokens=False)["input_ids"]) for side in ("chosen", "rejected")]
        first = {"ids": chosen, "length": sizes[0], "prompt": row.get("prompt_id") or json.dumps(row["messages"])}
        key = (row["choice"], row["chosen"]) if row.get("choice") else number
        strength = 1.0 if row.get("strength") is None else float(row["strength"])
        found.setdefault(key, (row["part"], first, []))[2].append((rejected, strength, sizes[1]))
    parts: dict[str, list[Choice]] = {"train": [], "eval": []}
    for part, first, others in found.values():
        answers, strengths, lengths = zip(*others, strict=True)
        parts[part].append(Choice(first["prompt"], (first["ids"], *answers), strengths, (first["length"], *lengths)))
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

    values: dict[int, float] = {}
    model.eval()
    pad = model.config.get_text_config().pad_token_id
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # like lengths together: less padding
    for start in range(0, len(rows), batch):
        some = order[start : start + batch]
        width = len(rows[some[-1]])
        ids = torch.tensor([[*rows[i], *[pad] * (width - len(rows[i]))] for i in some], device=model.device)
        mask = torch.tensor([[1] * len(rows[i]) + [0] * (width - len(rows[i])) for i in some], device=model.device)
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0].float().tolist()
        values.update(zip(some, logits, strict=True))
    return [values[i] for i in range(len(rows))]


def load(folder: str | Path) -> Any:
    """Load a trained reward model for scoring, on the GPU if there is one."""
    from transformers import AutoModelForSequenceClassification

    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype="auto")
    return model.to("cuda") if setup.has_gpu() else model


class Loaded:
    """A trained reward model with its own tokenizer and reading, ready to score text without vLLM."""

    def __init__(self, folder: str | Path):
        self.model = load(folder)
        self.tokenizer = tokenizer_of(str(folder))
        self.reading = Reading.of(folder)

    def __call__(self, messages: Sequence[Message], answers: Sequence[str]) -> list[float]:
        """Reward of each answer to one conversation."""
        return score(self.model, [self.reading.ids(self.tokenizer, messages, answer) for answer in answers])


def accuracy(model: Any, held_out: Sequence[Choice], seed: int = 0) -> dict[str, Any]:
    """How the model orders held-out choices, as `reward_metrics.held_out` says it."""
    values = iter(score(model, [ids for choice in held_out for ids in choice.answers]))
    by_choice = [[next(values) for _ in choice.answers] for choice in held_out]
    return reward_metrics.held_out([choice.prompt for choice in held_out], by_choice, seed)
