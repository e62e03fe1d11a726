"""`grpo`: online, with rewards held against their group's mean, through TRL's GRPOTrainer (Dr. GRPO loss).

Neither the group's spread nor an answer's length divides anything (arXiv 2503.20783). What it shares with `rloo` is in
`online`.
"""

from typing import Any

from taolake.training import online
from taolake.training.job import TrainJob, TrainResult


def run(job: TrainJob) -> TrainResult:
    """Train on the unique prompts of the rows and publish the adapter or model."""
    return online.run(job, "grpo", _trainer)


def _trainer(model: Any, arguments: dict[str, Any], **rest: Any) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(**arguments, loss_type="dr_grpo", scale_rewards="none")
    return GRPOTrainer(model, args=config, **rest)
