"""Sections of the project file: what the trainer sees, and how it trains."""

from typing import Literal

from pydantic import Field

from taolake.config.base import Section


class Select(Section):
    """Which rows the trainer sees."""

    best_of: int = Field(
        8, ge=2, description="k of the order-statistic weights: rows are drawn as random best-of-k would."
    )
    rows_per_prompt: int = Field(4, ge=1, description="Rejection fine-tuning rows drawn per prompt.")
    min_reward: float = Field(0.0, ge=0, le=1, description="Rows below this teach nothing by imitation.")


class Lora(Section):
    """Low-rank adapter over all linear layers but the head."""

    rank: int = Field(16, ge=1, le=512, description="Rank of the two factors.")
    alpha: int = Field(32, ge=1, description="Scale: the update is multiplied by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of inputs dropped while training.")


class Warmup(Section):
    """Rejection fine-tuning: weighted imitation of winners, before `tao`'s regression or alone as `rft`."""

    when: Literal["auto", "always", "never"] = Field(
        "auto", description="`auto`: when under 90 % of candidates pass the verifiers or stream B wins over 30 %."
    )
    epochs: float = Field(1, gt=0, description="Passes over the imitation rows.")
    learning_rate: float = Field(1e-4, gt=0, description="Peak learning rate.")


class Oapl(Section):
    """Offline regression of the log-ratio on the optimal advantage, over all scored stream-A candidates."""

    beta: float = Field(0.1, gt=0, description="Scale of the log-ratio; small beta moves further.")
    beta_v: float = Field(1.0, gt=0, description="Temperature of the value estimate.")
    clip: float = Field(10.0, gt=0, description="Limit of |advantage / beta|.")
    epochs: float = Field(2, gt=0, description="Passes over the regression rows.")
    learning_rate: float = Field(5e-5, gt=0, description="Peak learning rate.")


class Grpo(Section):
    """Online alternative: the round's scorers behind TRL's GRPOTrainer."""

    steps: int = Field(50, ge=1, description="Optimiser steps.")
    num_generations: int = Field(8, ge=2, description="Answers per prompt and step.")
    learning_rate: float = Field(1e-5, gt=0, description="Peak learning rate.")
    beta: float = Field(0.0, ge=0, description="KL coefficient.")


class Train(Section):
    """The optimiser's side."""

    algorithm: Literal["tao", "rft", "grpo"] = Field(
        "tao", description="`tao`: warm-up, then offline regression; `rft`: the warm-up alone; `grpo`: online."
    )
    lora: Lora | None = Field(default_factory=lambda: Lora(), description="`null` trains all weights.")
    batch_size: int = Field(32, ge=1, description="Sequences per optimiser step.")
    micro_batch_size: int | None = Field(None, ge=1, description="Sequences per forward pass; None: the whole batch.")
    save_steps: int = Field(50, ge=1, description="Steps between checkpoints; a killed run resumes at the last one.")
    warmup: Warmup = Field(default_factory=lambda: Warmup(), description="For `tao` and `rft`.")
    oapl: Oapl = Field(default_factory=lambda: Oapl(), description="For `tao`.")
    grpo: Grpo = Field(default_factory=lambda: Grpo(), description="For `grpo`.")
