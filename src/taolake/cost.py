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
    answers = _drawn(project, train, inputs) + inputs.review_prompts * project.generate.review_n + compared
    lines = [_answering("generate", project, inputs, answers), _answering("evaluate", project, inputs, compared)]
    tokens = _rows(project, train, _drawn(project, train, inputs)) * (
        inputs.prompt_tokens + inputs.speeds.answer_tokens
    )
    hours = tokens / inputs.speeds.train / 3600
    return [lines[0], Line("train", tokens, hours, hours), lines[1]]


def dollars(project: Project, lines: list[Line]) -> float:
    """At the price in the project file."""
    return sum(line.hours for line in lines) * project.cost.dollars_per_hour


def _answering(stage: str, project: Project, inputs: Inputs, answers: float) -> Line:
    tokens = answers * inputs.speeds.answer_tokens
    gpu_hours = tokens / inputs.speeds.generate / 3600
    return Line(stage, tokens, gpu_hours, gpu_hours / project.engine.devices)


def _drawn(project: Project, prompts: int, inputs: Inputs) -> float:
    """Answers to training prompts; with a budget, those that it pays for."""
    budget = project.generate.budget
    if budget is None:
        return prompts * project.generate.n
    answer = inputs.speeds.answer_tokens
    if budget.dollars is None:
        paid = (budget.tokens or 0) / answer
    else:
        prompt_price, answer_price = budget.dollars_per_million
        paid = budget.dollars / (inputs.prompt_tokens * prompt_price + answer * answer_price) * 1e6
    return min(prompts * budget.n_max, paid)


def _rows(project: Project, prompts: int, answers: float) -> float:
    """Rows the trainer passes over, every epoch counted; at most: prompts may abstain, and equal answers are one."""
    train, reference = project.train, 1  # the base's own probabilities are measured once
    own = answers * next(s.share for s in project.generate.strategies if s.on_policy)
    imitated = prompts * project.select.rows_per_prompt * train.warmup.epochs
    match train.algorithm:
        case "tao":
            return own * (train.oapl.epochs + reference) + (0 if train.warmup.when == "never" else imitated)
        case "rft":
            return imitated
        case "bond":
            return own * (train.bond.epochs + reference)
        case "kto":
            return 2 * answers * (train.kto.epochs + reference)  # each is also read behind another prompt
        case "dpo":
            return 2 * prompts * (train.dpo.epochs + reference)
        case "grpo":
            return train.grpo.steps * train.batch_size
        case "rloo":
            return train.rloo.steps * train.batch_size
