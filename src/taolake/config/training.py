"""Sections of the project file: what the trainer sees, and how it trains."""

from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from taolake.config.base import Name, Section, Share

_SHARED = ("tao", "rft", "bond")  # whose steps were seen to be the same from one process and from two
Algorithm = Literal["tao", "rft", "dpo", "kto", "bond", "grpo", "rloo"]
_SECTIONS: dict[str, tuple[str, ...]] = {"tao": ("warmup", "oapl"), "rft": ("warmup",)}  # others: of their own name


class Labels(Section):
    """Right answers of training prompts, given away for training; none may be of a held-out prompt."""

    path: str = Field(description="JSONL of `messages` and `answer`; imitated as often as a prompt's winners.")
    alone: bool = Field(False, description="Imitate these and nothing else: the labelled fine-tuning baseline (`rft`).")


class Select(Section):
    """Which rows the trainer sees."""

    best_of: int = Field(
        8, ge=2, description="k of the order-statistic weights: rows are drawn as random best-of-k would."
    )
    measured_by: Name | None = Field(
        None,
        description="`people` (their choices), or a scorer that is no part of the reward: best-of-k, picked by the "
        "reward, is held against it first. The peak, up to `best_of`, sets k; no rise, no training. None: `best_of`.",
    )
    rows_per_prompt: int = Field(4, ge=1, description="Rejection fine-tuning rows drawn per prompt.")
    min_reward: float = Field(0.0, ge=0, le=1, description="Rows below this teach nothing by imitation.")
    min_chance: float = Field(
        0.65, ge=0.5, le=1, description="For `dpo`: chance that a pair is in the right order, (1 + difference) / 2."
    )
    max_length_ratio: float = Field(2.0, ge=1, description="For `dpo`: how much longer one answer of a pair may be.")
    good: Share = Field(0.6, description="For `kto`: an answer with this reward or more is good.")
    bad: Share = Field(0.4, description="For `kto`: one with this reward or less is bad; between them none is used.")
    labels: Labels | None = Field(None, description="For `tao` and `rft`: labels that may train, where there are some.")
    min_mean: Share = Field(0.05, description="For `grpo` and `rloo`: prompts with a lower mean reward are hopeless.")
    max_mean: Share = Field(0.95, description="For `grpo` and `rloo`: prompts with a higher mean reward are easy.")

    @model_validator(mode="after")
    def _limits_leave_room(self) -> Self:
        for low, high in (("bad", "good"), ("min_mean", "max_mean")):
            below, above = getattr(self, low), getattr(self, high)
            if below >= above:
                raise ValueError(f"select.{low} {below:g} is not below select.{high} {above:g}")
        return self


class Lora(Section):
    """Low-rank adapter over all linear layers but the head."""

    rank: int = Field(16, ge=1, le=512, description="Rank of the two factors.")
    alpha: int = Field(32, ge=1, description="Scale: the update is multiplied by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of inputs dropped while training.")
    four_bit: bool = Field(
        False,
        description="QLoRA: the frozen base is held in four bits while training (NF4, bitsandbytes). The adapter is "
        "served on the base as it is.",
    )


class Warmup(Section):
    """Rejection fine-tuning: weighted imitation of winners, before `tao`'s regression or alone as `rft`."""

    when: Literal["auto", "always", "never"] = Field(
        "auto",
        description="`auto`: when there are winners, and under 90 % of candidates pass the verifiers or stream B wins "
        "over 30 %.",
    )
    epochs: float = Field(1, gt=0, description="Passes over the imitation rows.")
    learning_rate: float = Field(1e-4, gt=0, description="Peak learning rate.")


class Oapl(Section):
    """Offline regression of the log-ratio on the optimal advantage, over all scored stream-A candidates."""

    beta: float = Field(0.05, gt=0, description="Scale of the log-ratio; small beta moves further.")
    beta_v: float = Field(1.0, gt=0, description="Temperature of the value estimate.")
    clip: float = Field(10.0, gt=0, description="Limit of |advantage / beta|.")
    epochs: float = Field(2, gt=0, description="Passes over the regression rows.")
    learning_rate: float = Field(5e-5, gt=0, description="Peak learning rate.")


class Bond(Section):
    """The same regression towards the best-of-k policy, through ranks: the scale of the rewards does not matter."""

    beta: float = Field(1.0, gt=0, description="Scale of the log-ratio; at 1 the target is best-of-k itself.")
    clip: float = Field(10.0, gt=0, description="Limit of |advantage / beta|.")
    epochs: float = Field(1, gt=0, description="Passes over the regression rows.")
    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate.")


class Dpo(Section):
    """Pairs of a prompt's best answer and the right loser, with a likelihood term that holds the winner up."""

    beta: float = Field(0.1, gt=0, description="Scale of the log-ratios; small beta moves further.")
    nll: float = Field(0.2, ge=0, description="Weight of the winner's negative log-likelihood.")
    noise: float | None = Field(
        None, ge=0, lt=0.5, description="Share of pairs in the wrong order; None: estimated from the pairs' chances."
    )
    epochs: float = Field(1, gt=0, description="Passes over the pairs.")
    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate.")


class Kto(Section):
    """Answers called good or bad, one by one: for rewards that say yes or no, where few prompts hold both."""

    beta: float = Field(0.1, gt=0, description="Scale of the log-ratios; small beta moves further.")
    epochs: float = Field(1, gt=0, description="Passes over the answers.")
    learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate.")


class Grpo(Section):
    """Online alternative: the round's scorers behind TRL's GRPOTrainer."""

    steps: int = Field(50, ge=1, description="Optimiser steps.")
    num_generations: int = Field(8, ge=2, description="Answers per prompt and step.")
    learning_rate: float = Field(1e-5, gt=0, description="Peak learning rate.")
    beta: float = Field(0.0, ge=0, description="KL coefficient.")


class Rloo(Section):
    """Online alternative with a leave-one-out baseline: the round's scorers behind TRL's RLOOTrainer."""

    steps: int = Field(50, ge=1, description="Optimiser steps.")
    num_generations: int = Field(8, ge=2, description="Answers per prompt and step.")
    learning_rate: float = Field(1e-5, gt=0, description="Peak learning rate.")
    beta: float = Field(0.01, ge=0, description="KL coefficient, taken off the reward; long answers pay more.")


class Brakes(Section):
    """Looks at the policy while it trains, on prompts it does not learn from: trip wires, best checkpoint, early stop.

    A wire trips when its limit lies outside the measured interval, and a training whose looks all have a held-out score
    no better than the base's trips too. After the first trip training begins again at half the rate and length; after
    the second the round is discarded, and what was measured is kept.
    """

    every: int = Field(20, ge=1, description="Optimiser steps between two looks.")
    share: float = Field(0.1, gt=0, lt=1, description="Share of the training prompts kept out to be looked at.")
    samples: int = Field(4, ge=1, description="Answers per prompt and look, drawn at temperature 1.")
    scorer: Name | None = Field(
        None, description="Scorer that is no part of the reward: picks the best checkpoint. None: KL and form alone."
    )
    patience: int = Field(3, ge=1, description="Looks without a better held-out score after which training stops.")
    max_kl: float = Field(1.0, gt=0, description="KL budget, as a multiple of best-of-k's own distance from the base.")
    min_entropy: Share = Field(0.6, description="Entropy per token may fall to this share of the base's.")
    max_length_change: Share = Field(
        0.5, description="Mean length may change by this share, unless the held-out score rises."
    )
    max_truncated: Share = Field(0.02, description="Share of answers cut off may rise by this.")
    max_repetition: float = Field(
        2.0, ge=1, description="Share of repeated runs of words, as a multiple of the base's."
    )
    max_top_answer: float = Field(
        2.0, ge=1, description="Share of the one answer given most often over all prompts, as a multiple of the base's."
    )
    max_correlation_fall: float = Field(
        0.15, gt=0, description="Fall of the rank correlation between reward and held-out scorer within a prompt."
    )
    canary: str | None = Field(None, description="JSONL of `messages` and `answer` of other tasks, asked greedily.")
    max_canary_fall: Share = Field(0.01, description="Share of canaries answered right may fall by this.")

    @model_validator(mode="after")
    def _correlation_has_answers_to_rank(self) -> Self:
        if self.scorer is not None and self.samples < 2:
            raise ValueError("train.brakes.samples is 1, wanted 2 or more: a rank correlation compares answers")
        return self


class OtherTask(Section):
    """Another project whose selection is trained on together with this one's, and whose holdout can block."""

    project: str = Field(description="Its project file: same base and algorithm, its own task, scorers, lake and gate.")
    round: int = Field(1, ge=1, description="Its round, done up to `select`.")
    weight: float = Field(1.0, gt=0, description="How much its prompts are seen, beside this project's 1.")
    max_loss: Share = Field(0.03, description="Its greedy accuracy may fall by so much; more refuses the promotion.")


class Train(Section):
    """The optimiser's side."""

    algorithm: Algorithm = Field(
        "tao",
        description="`tao`: warm-up, then offline regression; `rft`: the warm-up alone; `dpo`: pairs; `kto`: good and "
        "bad answers; `bond`: regression towards best-of-k; `grpo`, `rloo`: online.",
    )
    lora: Lora | None = Field(default_factory=lambda: Lora(), description="`null` trains all weights.")
    batch_size: int = Field(32, ge=1, description="Sequences per optimiser step; equal answers are computed once.")
    micro_batch_size: int | None = Field(None, ge=1, description="Sequences per forward pass; None: the whole batch.")
    processes: int = Field(
        1, ge=1, description="Processes that share a batch on this machine, one a GPU where it has some."
    )
    executors: bool = Field(
        False,
        description="The processes run on the cluster's executors instead, on several nodes; all must see `work`.",
    )
    shard: bool = Field(
        False,
        description="All weights, their gradients and optimiser states are split among the processes (FSDP2). Without "
        "LoRA, and on GPUs alone.",
    )
    save_steps: int = Field(50, ge=1, description="Steps between checkpoints; a killed run resumes at the last one.")
    warmup: Warmup = Field(default_factory=lambda: Warmup(), description="For `tao` and `rft`.")
    oapl: Oapl = Field(default_factory=lambda: Oapl(), description="For `tao`.")
    bond: Bond = Field(default_factory=lambda: Bond(), description="For `bond`.")
    dpo: Dpo = Field(default_factory=lambda: Dpo(), description="For `dpo`.")
    kto: Kto = Field(default_factory=lambda: Kto(), description="For `kto`.")
    grpo: Grpo = Field(default_factory=lambda: Grpo(), description="For `grpo`.")
    rloo: Rloo = Field(default_factory=lambda: Rloo(), description="For `rloo`.")

    others: tuple[OtherTask, ...] = Field((), description="Tasks that are tuned together with this one.")
    mixing: Share = Field(
        1.0, description="Exponent of a task's prompts in its share: 1 counts prompts alike, 0 tasks alike."
    )
    brakes: Brakes | None = Field(None, description="Looks while it trains; None trains to the end, unwatched.")

    @model_validator(mode="after")
    def _processes_share_what_they_can(self) -> Self:
        if self.processes == 1:
            for name, asked in (("executors", self.executors), ("shard", self.shard)):
                if asked:
                    raise ValueError(f"train.{name} needs several processes, got train.processes 1, wanted 2 or more")
            return self
        if self.shard and self.lora is not None:
            raise ValueError("train.shard splits all weights, got train.lora: set it to null, or leave shard out")
        if self.algorithm not in _SHARED or self.brakes is not None:
            raise ValueError(
                f"train.processes is {self.processes}: several processes train {', '.join(_SHARED)}, without brakes; "
                "set it to 1, or another algorithm"
            )
        if self.batch_size % self.processes:
            raise ValueError(f"train.batch_size {self.batch_size} is no multiple of train.processes {self.processes}")
        return self

    @property
    def used(self) -> dict[str, Any]:
        """The settings as JSON without those of other algorithms, which train nothing here."""
        own = _SECTIONS.get(self.algorithm, (self.algorithm,))
        others = {*get_args(Algorithm), *(name for names in _SECTIONS.values() for name in names)}
        return self.model_dump(mode="json", exclude=(others & type(self).model_fields.keys()) - set(own))

    @property
    def online(self) -> bool:
        """Whether answers are made and scored while it trains."""
        return self.algorithm in ("grpo", "rloo")
