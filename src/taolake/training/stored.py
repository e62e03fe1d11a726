"""TRL's preference trainers over rows that are ids already and carry their reference: nothing is rendered or measured.

TRL would render the texts again, with whatever the template writes after the end mark, and measure the reference anew
whenever a killed job goes on. This file loads torch and TRL.
"""

from typing import Any

from trl import DPOTrainer, KTOTrainer


class PairTrainer(DPOTrainer):  # type: ignore[misc]
    """DPOTrainer over `prompt_ids`, `chosen_ids`, `rejected_ids`, `ref_chosen_logps`, `ref_rejected_logps`."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


class VerdictTrainer(KTOTrainer):  # type: ignore[misc]
    """KTOTrainer over `prompt_ids`, `completion_ids`, `KL_completion_ids`, `label`, `ref_logps`, `ref_KL_logps`."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset
