"""What a round will cost, from its project file and measured speeds: arithmetic alone.

Every number that goes in is shown and can be replaced. Speeds are those of a finished round; none is guessed.
"""

from dataclasses import dataclass
from typing import NamedTuple

from taolake.config import Project


class Speeds(NamedTuple):
    """Tokens a second: of one engine that answers, of the trainer, and tokens of a mean answer."""

    generate: float
    train: float
    answer_tokens: float


@dataclass(frozen=True)
class Inputs:
    """What the project file does not say. Prompts by what they are for; DBUs an hour of a node with one GPU."""

    prompts: int
    review_prompts: int
    prompt_tokens: float
    speeds: Speeds
    dbu_per_gpu_hour: float


class Line(NamedTuple):
    """One stage's share."""

    stage: str
    tokens: float
    gpu_hours: float
    hours: float


def expected(project: Project, inputs: Inputs) -> list[Line]:
    """Tokens, GPU-hours and hours of the stages that need a model, without the start of clusters."""
    holdout = round(inputs.prompts * project.ingest.holdout)
    train = inputs.prompts - holdout
    compared = holdout * (1 + project.evaluate.samples)
    answers = train * project.generate.n + inputs.review_prompts * project.generate.review_n + compared
    lines = [_answering("generate", project, inputs, answers), _answering("evaluate", project, inputs, compared)]
    tokens = _rows(project, train) * (inputs.prompt_tokens + inputs.speeds.answer_tokens)
    hours = tokens / inputs.speeds.train / 3600
    return [lines[0], Line("train", tokens, hours, hours), lines[1]]


def dollars(project: Project, lines: list[Line]) -> float:
    """At the price in the project file."""
    return sum(line.hours for line in lines) * project.cost.dollars_per_hour


def _answering(stage: str, project: Project, inputs: Inputs, answers: int) -> Line:
    tokens = answers * inputs.speeds.answer_tokens
    gpu_hours = tokens / inputs.speeds.generate / 3600
    return Line(stage, tokens, gpu_hours, gpu_hours / project.engine.devices)


def _rows(project: Project, prompts: int) -> float:
    """Rows the trainer passes over, every epoch counted; at most, since a prompt may abstain."""
    train, plain = project.train, project.generate.counts()[project.generate.plain.name]
    if train.algorithm == "grpo":
        return train.grpo.steps * train.batch_size
    imitated = prompts * project.select.rows_per_prompt * train.warmup.epochs
    if train.algorithm == "rft":
        return imitated
    reference = 1  # the base's own probabilities are measured once
    return prompts * plain * (train.oapl.epochs + reference) + (0 if train.warmup.when == "never" else imitated)
