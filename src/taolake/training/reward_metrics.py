"""How well a reward model orders held-out choices: pairwise accuracy, best-of-N, an interval, and the pull of length.

A choice is a list of values, that of the chosen answer first. Not calibration, nor the trust report. No torch.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

_RESAMPLES = 2000
_STEPS = 50  # of Newton's method; it needs about five


def held_out(prompts: Sequence[str], choices: Sequence[Sequence[float]], seed: int) -> dict[str, Any]:
    """Accuracy over held-out choices; ties share.

    Args:
        prompts: whose choice each is: intervals resample prompts.
        choices: values of one choice's answers, the chosen one first.
        seed: of the resampling.

    Returns:
        `accuracy` over `pairs` of chosen and not chosen with its 95 % interval `accuracy_low`, `accuracy_high`, and
        `top1` over `lists`, the choices among three or more; None where there is none.
    """
    right = [sum(_beats(values[0], other) for other in values[1:]) for values in choices]
    pairs = [len(values) - 1 for values in choices]
    lists = [_top(values) for values in choices if len(values) > 2]
    low, high = _interval(prompts, right, pairs, seed)
    return {
        "accuracy": sum(right) / sum(pairs) if choices else None,
        "accuracy_low": low,
        "accuracy_high": high,
        "pairs": sum(pairs),
        "top1": sum(lists) / len(lists) if lists else None,
        "lists": len(lists),
    }


def length_scale(lengths: Sequence[Sequence[int]]) -> tuple[float, float]:
    """Mean and deviation of the log of answer lengths, in tokens."""
    logs = [math.log(max(1, length)) for choice in lengths for length in choice]
    mean = sum(logs) / len(logs)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in logs) / len(logs))
    return mean, deviation or 1.0


def standardised(lengths: Sequence[int], scale: tuple[float, float]) -> list[float]:
    """Lengths in deviations of their log."""
    return [(math.log(max(1, length)) - scale[0]) / scale[1] for length in lengths]


def length_pull(choices: Sequence[Sequence[float]]) -> float:
    """What length alone says about choices: the slope of the softmax over standardised lengths, chosen one first.

    A ridge of one half keeps it finite where the longest always wins. Newton's method: the loss is convex in a scalar.
    """
    slope = 0.0
    for _ in range(_STEPS):
        first, second = slope, 1.0
        for lengths in choices:
            z = np.asarray(lengths)
            weights = np.exp(slope * z - (slope * z).max())
            weights /= weights.sum()
            mean = float(weights @ z)
            first += mean - float(z[0])
            second += float(weights @ (z - mean) ** 2)
        step = first / second
        slope -= max(-1.0, min(1.0, step))
        if abs(step) < 1e-9:
            break
    return slope


def _interval(
    prompts: Sequence[str], right: Sequence[float], pairs: Sequence[int], seed: int
) -> tuple[float | None, float | None]:
    """Percentile interval of the accuracy over pairs, resampling whole prompts."""
    if not prompts:
        return None, None
    order = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    sums = np.zeros((len(order), 2))
    for prompt, hits, count in zip(prompts, right, pairs, strict=True):
        sums[order[prompt]] += (hits, count)
    draws = np.random.default_rng(seed).integers(0, len(order), (_RESAMPLES, len(order)))
    drawn = sums[draws].sum(axis=1)
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    return float(low), float(high)


def _beats(chosen: float, other: float) -> float:
    return 1.0 if chosen > other else 0.5 if chosen == other else 0.0


def _top(values: Sequence[float]) -> float:
    best = max(values)
    return (values[0] == best) / sum(value == best for value in values)
