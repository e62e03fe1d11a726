"""`rloo`: online, with rewards held against the mean of the group's others, through TRL's RLOOTrainer.

The ratio is of whole answers, and the KL term comes off the reward, so a longer answer pays more of it (arXiv
2402.14740). What it shares with `grpo` is in `online`.
"""

from typing import Any

from taolake.training import online
from taolake.training.job import TrainJob, TrainResult


def run(job: TrainJob) -> TrainResult:
    """Train on the unique prompts of the rows and publish the adapter or model."""
    return online.run(job, "rloo", _trainer)


def _trainer(model: Any, arguments: dict[str, Any], **rest: Any) -> Any:
    from trl import RLOOConfig, RLOOTrainer

    return RLOOTrainer(model, args=RLOOConfig(**arguments, normalize_advantages=False), **rest)
