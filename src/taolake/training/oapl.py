"""OAPL: offline regression of the policy's log-ratio on the optimal advantage, over all scored candidates.

    loss = mean_i w_i (beta * [log pi(y_i|x) - log pi_ref(y_i|x)] - A_i)^2 / (2 beta),    A_i = r_i - V*(x)

with sums over the answer's tokens. Sources: arXiv 2602.19362, NVIDIA NeMo-RL's OAPL guide; dividing by 2 beta gives
the loss the scale of a policy gradient, so learning rates carry over (docs/design.md, section 6). Not an
importance-sampling method: no ratio is exponentiated in the loss, and stored answers need no log-probabilities from
the engine that wrote them. This file defines a Trainer, so it loads torch; import it where training happens.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import Trainer

from taolake.training import checkpoint, setup

_SAFE = 20.0  # exp() of a larger log-ratio would drown every other row of the KL estimates


class OAPLTrainer(Trainer):  # type: ignore[misc]
    """Trains on rows of `prompt_ids`, `token_ids`, `advantage`, `weight` and `reference`.

    Args:
        model: policy to train, starting where `reference` was measured or after a warm-up.
        args: TrainingArguments; one epoch stands for the whole schedule.
        rows: the candidates.
        pad_id: padding token.
        beta: scale of the log-ratio.
        clip: limit of |advantage / beta|.
        epochs: how often each row is seen.
    """

    # The mean over a whole optimiser step is taken below; transformers 5.19 asks here, older ones ask the instance.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: Any,
        args: Any,
        rows: Sequence[dict[str, Any]],
        pad_id: int,
        beta: float,
        clip: float,
        epochs: float,
    ):
        super().__init__(
            model=model, args=args, train_dataset=list(rows), data_collator=lambda batch: collate(batch, pad_id)
        )
        self.model_accepts_loss_kwargs = False
        self.beta, self.clip, self.epochs = beta, clip, epochs
        self._seen: list[torch.Tensor] = []

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        rows = self.train_dataset if train_dataset is None else train_dataset
        lengths = [len(row["prompt_ids"]) + len(row["token_ids"]) for row in rows]
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return Schedule(lengths, step, self.epochs, self.args.seed)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Loss of a micro-batch, scaled so that accumulation over any split of a step's rows gives the same sum."""
        log_ratio = log_probs(model, inputs) - inputs["reference"]
        limit = self.clip * self.beta
        advantage = inputs["advantage"].clamp(-limit, limit)
        losses = inputs["weight"] * (self.beta * log_ratio - advantage) ** 2 / (2 * self.beta)
        self._seen.append(torch.stack([log_ratio.detach(), advantage, inputs["copies"]]).cpu())
        rows_a_step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        # Trainer divides by the micro-batches of this step, fewer in the last one; undo that, and divide by its rows.
        loss = losses.sum() * self.current_gradient_accumulation_steps / rows_a_step
        return (loss, {"log_ratio": log_ratio}) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add what the rows since the last log say about distance and direction."""
        if self._seen:
            logs = {**logs, **statistics(*torch.cat(self._seen, dim=1))}
            self._seen.clear()
        super().log(logs, *args, **kwargs)


class Schedule(Sampler[int]):  # type: ignore[misc]
    """Row numbers of all epochs in one go: each epoch is its own shuffle, each step's rows are sorted by length.

    Sorting inside a step packs rows of like length into a micro-batch and leaves the step's gradient as it is. One
    long epoch needs no epoch counter, so a resumed run skips to the very row where it was interrupted.
    """

    def __init__(self, lengths: Sequence[int], step: int, epochs: float, seed: int):
        order: list[int] = []
        for epoch in range(int(epochs) + 1):
            shuffled = list(range(len(lengths)))
            random.Random(f"{seed}:{epoch}").shuffle(shuffled)
            order += shuffled
        order = order[: max(1, round(len(lengths) * epochs))]
        steps = (order[start : start + step] for start in range(0, len(order), step))
        self.order = [row for rows in steps for row in sorted(rows, key=lambda i: (lengths[i], i))]

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)


def collate(rows: Sequence[dict[str, Any]], pad_id: int) -> dict[str, torch.Tensor]:
    """Pad on the right, so that positions need no shifting; `answer` marks the sampled tokens.

    A truncated answer has no end mark and gets none: its ids are the whole trajectory under the length limit. A number
    that a row has not got, as the sides of a pair have no advantage, is 0.
    """
    width = max(len(row["prompt_ids"]) + len(row["token_ids"]) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    mask, answer = torch.zeros_like(ids), torch.zeros_like(ids)
    for i, row in enumerate(rows):
        start, end = len(row["prompt_ids"]), len(row["prompt_ids"]) + len(row["token_ids"])
        ids[i, :end] = torch.tensor([*row["prompt_ids"], *row["token_ids"]])
        mask[i, :end] = 1
        answer[i, start:end] = 1
    numbers = {
        name: torch.tensor([row.get(name) or 0.0 for row in rows], dtype=torch.float32)
        for name in ("advantage", "weight", "reference", "copies")
    }
    return {"input_ids": ids, "attention_mask": mask, "answer": answer, **numbers}


def log_probs(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Log-probability of each row's answer given its prompt, summed over tokens, in float32."""
    ids, answer = batch["input_ids"], batch["answer"]
    first = int(answer.argmax(dim=1).min())
    # Logits are the largest tensor by far: ask only for the positions that predict an answer token of some row.
    keep = ids.shape[1] - first + 1
    output = model(input_ids=ids, attention_mask=batch["attention_mask"], logits_to_keep=keep, use_cache=False)
    logits = output.logits[:, :-1].float()
    tokens = logits.gather(2, ids[:, first:].unsqueeze(2)).squeeze(2) - logits.logsumexp(dim=2)
    return (tokens * answer[:, first:]).sum(dim=1)


def score(model: Any, rows: Sequence[dict[str, Any]], pad_id: int, batch: int, stage: str) -> list[float]:
    """Log-probability of every row's answer, without gradients or dropout, in the precision of training."""
    bar = checkpoint.Bar(stage)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["prompt_ids"]) + len(rows[i]["token_ids"]))
    result = [0.0] * len(rows)
    gpu = setup.has_gpu()
    was_training = model.training
    model = model.eval().to("cuda") if gpu else model.eval()
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=gpu):
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            inputs = {k: v.to(model.device) for k, v in collate([rows[i] for i in chosen], pad_id).items()}
            for i, value in zip(chosen, log_probs(model, inputs).tolist(), strict=True):
                result[i] = value
            bar.to(start + len(chosen), len(order))
    model.train(was_training)
    return result


def statistics(log_ratio: torch.Tensor, advantage: torch.Tensor, copies: torch.Tensor) -> dict[str, float]:
    """How far the policy moved and whether it moved the right way; the rows are samples of the reference.

    `kl_reverse` = E_ref[exp(l) - 1 - l] estimates KL(ref || policy) with low variance ("k3"); `kl` =
    E_ref[exp(l) l - exp(l) + 1] estimates KL(policy || ref) by importance weights, so it says little once it is large.
    """
    share = copies / copies.sum()

    def mean(values: torch.Tensor) -> torch.Tensor:
        return (share * values).sum()

    ratio = log_ratio.clamp(-_SAFE, _SAFE)
    ratio_off, advantage_off = (values.double() - mean(values) for values in (log_ratio, advantage))
    spread = (mean(ratio_off**2) * mean(advantage_off**2)).sqrt()
    return {
        "log_ratio": mean(log_ratio).item(),
        "kl": mean(ratio.exp() * ratio - ratio.expm1()).item(),
        "kl_reverse": mean(ratio.expm1() - ratio).item(),
        "correlation": (mean(ratio_off * advantage_off) / spread).item() if spread > 0 else 0.0,
    }
