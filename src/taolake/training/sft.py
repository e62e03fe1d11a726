"""TRL's SFTTrainer over winners that carry a weight, since equal ones are one row. This file loads torch and TRL."""

from typing import Any

import torch
from trl import SFTTrainer


class WinnerTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer over `input_ids`, `labels` and `weight`: how often the loss of a row's tokens counts.

    Weights have a mean of 1 over the tokens with labels, as `rft.folded` gives them: TRL divides by their number.
    """

    data_collator: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        pad = self.data_collator

        def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
            return {**pad(rows), "weight": torch.tensor([row["weight"] for row in rows])}

        self.data_collator = collate

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["input_ids", "labels", "weight"]

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """TRL's loss and measures; weights go in where it takes the tokens' log-probabilities from the model."""
        weight = inputs.pop("weight")

        def weighed(**asked: Any) -> Any:
            output = model(**asked)
            output.log_probs = output.log_probs * weight[:, None]  # (rows, tokens - 1)
            return output

        return super().compute_loss(weighed, inputs, *args, **kwargs)
