"""How many more answers is a prompt worth? Posterior gain by token, and waves that never pass a budget.

Pure: what prompts have shown so far in, how many answers each gets next out. A prompt's chance of a good answer has a
beta prior fitted on all prompts (empirical Bayes), so a prompt of four failures is hopeless in an easy task and merely
unlucky in a hard one; where answers have grades, what one more brings is learnt from all prompts. Every answer is
reserved at the most it can cost, which is why the budget holds whatever the model writes. Formulas: docs/design.md,
section 6. Idea: arXiv 2410.04707, whose predictor reads the prompt's text; these read what it has shown.
"""

import heapq
import math
from collections.abc import Mapping, Sequence
from statistics import fmean, pvariance
from typing import NamedTuple

import numpy as np

from taolake.config import Budget

_WANTED = 2  # good and bad answers after which a prompt has shown both sides
_ENOUGH = 20  # answers left out in turn, from which what one more brings can be learnt
_MOST = 10_000  # prompts it is learnt from, of more every second, third, ...
_EVEN = (1.0, 0.0, 0.0, 0.0)  # until then: a prompt is worth the more the less it was asked
_LEAST = 1e-6  # what is expected to bring nothing comes last, and is not left out


class Seen(NamedTuple):
    """What a prompt has shown: the value of each scored answer, 0 to 1, the answers asked, and what they cost."""

    values: tuple[float, ...]
    asked: int
    cost: float


class Prior(NamedTuple):
    """What all prompts say of one: the beta prior of its share of good answers and, where answers have grades, the
    weights of 1, mean, deviation and best in what a new best answer adds; none where they are right or wrong."""

    good: float
    bad: float
    rise: tuple[float, ...] = ()


def prior(seen: Sequence[Seen]) -> Prior:
    """Method of moments for shares over prompts of unequal numbers, kept between one and a hundred answers of weight.

    With fewer than two scored prompts it is the even prior of two answers.
    """
    told = [s for s in seen if s.values]
    rise = _learnt(told) if any(0 < value < 1 for s in told for value in s.values) else ()
    if len(told) < 2:
        return Prior(1.0, 1.0, rise)
    shares = [good(s) / len(s.values) for s in told]
    mean = min(max(fmean(shares), 0.01), 0.99)
    # The shares' variance is between + (mean (1 - mean) - between) / n: prompts differ, and n answers are few.
    few = fmean(1 / len(s.values) for s in told)
    between = max((pvariance(shares) - mean * (1 - mean) * few) / max(1 - few, few), 1e-9)
    weight = min(max(mean * (1 - mean) / between - 1, 1.0), 100.0)
    return Prior(mean * weight, (1 - mean) * weight, rise)


def _learnt(told: Sequence[Seen]) -> tuple[float, ...]:
    """Least squares over every answer, left out of its prompt: what it adds to the best of the others, by their shape.

    An answer drawn after n others is the best with chance 1 / (n + 1) where no two are equal, whatever their
    distribution; the weights say what it adds then.
    """
    shapes, rises = list[list[float]](), list[float]()
    for values in (s.values for s in told[:: max(1, math.ceil(len(told) / _MOST))] if len(s.values) > 2):
        top, second = sorted(values)[-1:-3:-1]
        total, squares, others = sum(values), sum(v * v for v in values), len(values) - 1
        for value in values:
            mean = (total - value) / others
            deviation = math.sqrt(max((squares - value * value) / others - mean * mean, 0.0))
            best = second if value == top else top
            shapes.append([x / (others + 1) for x in (1.0, mean, deviation, best)])
            rises.append(max(value - best, 0.0))
    if len(rises) < _ENOUGH:
        return _EVEN
    found: list[float] = np.linalg.lstsq(np.array(shapes), np.array(rises), rcond=None)[0].tolist()
    return tuple(found)


def good(seen: Seen) -> int:
    """Answers worth more than a half."""
    return sum(value > 0.5 for value in seen.values)


def gain(seen: Seen, more: int, start: Prior, contrast: float) -> float:
    """What `more` answers to a prompt are expected to bring.

    Where answers are right or wrong: the chance to see a good one, or `contrast` times that of a bad one, whichever is
    more, each halved for a second of its kind; a good one gets selected, a bad one is what it is held against.
    Where they have grades: the chance that each of them is the best so far, 1 / (n + 1) and falling, times what the
    weights of `start` say that it adds then.
    """
    if start.rise:
        n = len(seen.values)
        shape = (1.0, fmean(seen.values), math.sqrt(pvariance(seen.values)), max(seen.values)) if n else _EVEN
        adds = max(sum(w * x for w, x in zip(start.rise, shape, strict=True)), _LEAST)
        return adds * sum(1 / (n + 1 + i) for i in range(more))
    right = good(seen)
    wrong = len(seen.values) - right
    a, b = start.good + right, start.bad + wrong
    kinds = ((1.0, right, a, b), (contrast, wrong, b, a))
    return max(w * (1 - _none(x, y, more)) / (1 + have) if have < _WANTED else 0.0 for w, have, x, y in kinds)


def settled(seen: Seen, spec: Budget) -> str:
    """Why a prompt gets no more answers: `full`, `easy` or `hopeless`; empty where it may."""
    if seen.asked >= spec.n_max:
        return "full"
    right = good(seen)
    if len(seen.values) >= spec.easy and right == len(seen.values):
        return "easy"
    return "hopeless" if len(seen.values) >= spec.hopeless and right == 0 else ""


def wave(seen: Mapping[str, Seen], spec: Budget, left: float, most: float) -> dict[str, int]:
    """How many answers each prompt gets next; prompts that get none are absent.

    Args:
        seen: by prompt id; a prompt without answers comes with none.
        spec: the project's `generate.budget` section.
        left: what may still be spent, in the budget's own unit.
        most: what one answer can cost at most; every answer is reserved at that.

    Returns:
        Answers by prompt id, best gain by cost first; their cost is at most `left`.
    """
    start = prior([seen[name] for name in sorted(seen)])  # in one order: sums of floats depend on it
    typical = _typical(seen, most)
    open_ = {name: s for name, s in seen.items() if not settled(s, spec)}
    costs = {name: s.cost / s.asked if s.cost else typical for name, s in open_.items()}
    sizes = {n: min(spec.probe if s.asked == 0 else spec.step, spec.n_max - s.asked) for n, s in open_.items()}
    given: dict[str, int] = {}
    for name in _worthy(open_, sizes, costs, spec, start, left):
        size = min(sizes[name], int(left / most + 1e-9))
        if size > 0:
            given[name] = size
            left -= size * most
    return given


def _worthy(
    open_: Mapping[str, Seen],
    sizes: Mapping[str, int],
    costs: Mapping[str, float],
    spec: Budget,
    start: Prior,
    left: float,
) -> list[str]:
    """Prompts in the order in which they deserve an answer, as long as what they cost on average can be paid.

    All that is left is given out in thought, one step after another, each to the prompt that gains most by cost; a
    prompt that would get none of it is not asked now either, so that the money waits for those that need more of it.
    """
    heap: list[tuple[bool, float, str, int]] = []

    def push(name: str, steps: int) -> None:
        """Offer a prompt's next step; one that nobody asked comes first, since its first answers tell what it is."""
        size, s = sizes[name], open_[name]
        if s.asked + size * steps < spec.n_max:
            rise = gain(s, size * (steps + 1), start, spec.contrast)
            rise -= gain(s, size * steps, start, spec.contrast) if steps else 0.0
            if rise > 0:
                heapq.heappush(heap, (s.asked > 0 or steps > 0, -rise / (size * costs[name]), name, steps))

    for name in open_:
        push(name, 0)
    order: dict[str, None] = {}
    while heap and left > 0:
        _, _, name, steps = heapq.heappop(heap)
        left -= sizes[name] * costs[name]
        order[name] = None
        push(name, steps + 1)
    return list(order)


def _typical(seen: Mapping[str, Seen], most: float) -> float:
    """Mean cost of an answer, over all prompts."""
    asked = sum(s.asked for s in seen.values())
    return sum(s.cost for s in seen.values()) / asked or most if asked else most


def _none(a: float, b: float, more: int) -> float:
    """Chance that none of `more` draws is of the kind whose share is Beta(a, b): B(a, b + more) / B(a, b)."""
    return math.exp(math.lgamma(b + more) - math.lgamma(b) + math.lgamma(a + b) - math.lgamma(a + b + more))
