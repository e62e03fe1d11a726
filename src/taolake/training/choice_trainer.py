"""A reward trainer for whole choices, in TRL's manner: softmax over the chosen answer and all that were shown.

With two answers it is TRL's own pairwise loss, margin and centring included. The pull of length is one more scalar,
learnt beside the scores and left out of them. This file loads torch and TRL.
"""

from typing import Any

import torch
from torch import nn
from trl import RewardTrainer
from trl.trainer.utils import pad

_PULL_RATE = 0.02  # learning rate of the scalar: it has to follow while the scores change, and starts where it belongs


class ChoiceCollator:
    """Choices of any size as one batch of rows: `sizes` says how many rows each has, the chosen one first."""

    def __init__(self, pad_id: int):
        self.pad_id = pad_id

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad on the right; `margins` and `lengths` have a number a row."""
        rows = [torch.tensor(ids) for e in examples for ids in [e["chosen_ids"], *e["rejected_ids"]]]
        return {
            "input_ids": pad(rows, padding_value=self.pad_id, padding_side="right"),
            "attention_mask": pad([torch.ones_like(row) for row in rows], padding_value=0, padding_side="right"),
            "sizes": torch.tensor([1 + len(e["rejected_ids"]) for e in examples]),
            "margins": torch.tensor([m for e in examples for m in [0.0, *e["margins"]]]),
            "lengths": torch.tensor([z for e in examples for z in e["lengths"]]),
        }


class ChoiceTrainer(RewardTrainer):  # type: ignore[misc]
    """RewardTrainer over rows `chosen_ids`, `rejected_ids` (several), `margins` (one each), `lengths` (of all).

    Args:
        pull: where the slope of length starts; None does not control for length.
        kwargs: as for RewardTrainer.
    """

    def __init__(self, *, pull: float | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        if pull is not None:
            self.model.register_parameter("length_pull", nn.Parameter(torch.tensor(pull, device=self.model.device)))

    @property
    def pull(self) -> float | None:
        """Slope of length, in score per deviation of log length; None without control."""
        found = getattr(self.model, "length_pull", None)
        return None if found is None else float(found.detach())

    def bare(self) -> Any:
        """The model without the pull: what is scored with and saved."""
        if hasattr(self.model, "length_pull"):
            del self.model.length_pull
        return self.model

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The usual optimiser, with the pull at a rate of its own."""
        optimizer = super().create_optimizer(*args, **kwargs)
        pull = getattr(self.model, "length_pull", None)
        if pull is not None:
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if p is not pull]
            optimizer.add_param_group({"params": [pull], "lr": _PULL_RATE, "weight_decay": 0.0})
        return optimizer

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """-log softmax of the chosen answer over its choice, and the centring term."""
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        scores, sizes = outputs.logits.squeeze(-1).float(), inputs["sizes"]
        logits = scores + inputs["margins"]
        pull = getattr(self.accelerator.unwrap_model(model), "length_pull", None)
        if pull is not None:
            logits = logits + pull * inputs["lengths"]
        table = by_choice(logits, sizes, float("-inf"))
        loss = (torch.logsumexp(table, 1) - table[:, 0]).mean()
        means = by_choice(scores, sizes, 0.0).sum(1) / sizes
        if self.args.center_rewards_coefficient:
            # TRL centres a pair by the square of its sum, which is twice its mean.
            loss = loss + self.args.center_rewards_coefficient * ((2 * means) ** 2).mean()
        self._note(scores.detach(), sizes)
        return (loss, outputs) if return_outputs else loss

    def _note(self, scores: torch.Tensor, sizes: torch.Tensor) -> None:
        """Accuracy over pairs, under the name that TRL logs it by; early stopping reads it."""
        table = by_choice(scores, sizes, float("nan"))
        right = (table[:, :1] > table[:, 1:]).float().sum(1) / (sizes - 1)
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["accuracy"].append(float(self.accelerator.gather_for_metrics(right.mean()).mean()))


def by_choice(values: torch.Tensor, sizes: torch.Tensor, fill: float) -> torch.Tensor:
    """Rows of a batch as a table, a line a choice; `fill` stands where a choice has fewer answers than the largest."""
    mask = torch.arange(int(sizes.max()), device=values.device)[None] < sizes[:, None]
    return values.new_full(mask.shape, fill).masked_scatter(mask, values)
