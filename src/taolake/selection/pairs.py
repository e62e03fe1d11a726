"""Which answers to hold against each other (`dpo`), and which to call good or bad (`kto`).

Pure: one prompt's scored answers in, positions out. The best answer is not set against the worst one: with many draws
the worst is an accident, and preferring the winner over it teaches little (arXiv 2502.16825). Not how much an answer
weighs (`weights`), nor the losses (`taolake.training`). Formulas: docs/design.md, section 6.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from taolake.config import Select
from taolake.selection.calibrate import Calibration
from taolake.selection.weights import draw

_MANY = 16  # from here on two deviations below the mean is a place where answers lie
_FAILED = 0.2  # share of losers that fail a verifier, where few answers were drawn: form is worth a lesson, not all


class Answer(NamedTuple):
    """One scored answer: its reward, whether it passes the verifiers, its length in tokens, its text."""

    reward: float
    passed: bool
    tokens: int
    text: str


class Pair(NamedTuple):
    """Positions of the better and the worse answer, and the chance that the order is right."""

    chosen: int
    rejected: int
    chance: float


def chance(difference: float) -> float:
    """Chance that the better-rewarded of two answers is better, from the difference of rewards: (1 + d) / 2."""
    return Calibration().apply(difference)


def best_pair(answers: Sequence[Answer], spec: Select, seed: int) -> Pair | None:
    """The best answer and the right loser; None where no other answer is surely worse and of like length.

    The winner is drawn evenly from the best-rewarded. Losers differ from it in text, are worse with a chance of
    `min_chance` or more, and are at most `max_length_ratio` times longer or shorter. From 16 answers on the loser is
    the one nearest to two deviations below the mean reward; with fewer it is the worst that passes the verifiers, and
    for a fifth of the prompts, or where none does, the worst that fails them. Ties are drawn evenly.

    Args:
        answers: the prompt's scored and finished answers.
        spec: the project's `select` section.
        seed: the prompt's own.
    """
    if len(answers) < 2:
        return None
    top = max(a.reward for a in answers)
    winner = draw([float(a.reward == top) for a in answers], 1, seed)[0]
    able = [i for i, other in enumerate(answers) if _may_lose(answers[winner], other, spec)]
    if not able:
        return None
    if len(answers) >= _MANY:
        rewards = np.array([a.reward for a in answers])
        wanted = float(rewards.mean() - 2 * rewards.std())
    else:
        able, wanted = _by_form(answers, able, seed), -math.inf
    gaps = {i: answers[i].reward if math.isinf(wanted) else abs(answers[i].reward - wanted) for i in able}
    nearest = min(gaps.values())
    loser = draw([float(gaps.get(i, math.inf) == nearest) for i in range(len(answers))], 1, seed + 1)[0]
    return Pair(winner, loser, chance(top - answers[loser].reward))


def verdicts(rewards: Sequence[float], spec: Select) -> list[bool | None]:
    """True for a good answer, False for a bad one, None between the two limits, where neither is sure."""
    return [True if r >= spec.good else False if r <= spec.bad else None for r in rewards]


def _may_lose(winner: Answer, other: Answer, spec: Select) -> bool:
    longer, shorter = max(winner.tokens, other.tokens), max(min(winner.tokens, other.tokens), 1)
    surely = winner.reward > other.reward and chance(winner.reward - other.reward) >= spec.min_chance
    return surely and winner.text != other.text and longer <= spec.max_length_ratio * shorter


def _by_form(answers: Sequence[Answer], able: list[int], seed: int) -> list[int]:
    """Those that pass the verifiers, or for some prompts those that do not."""
    passed = [i for i in able if answers[i].passed]
    failed = [i for i in able if not answers[i].passed]
    odd = float(np.random.default_rng(seed).random()) < _FAILED
    return (failed or passed) if odd else (passed or failed)
