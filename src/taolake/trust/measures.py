"""How often a scorer and people agree, and what its confidence is worth. Every number carries an interval over prompts.

Not verdicts: `findings` holds these numbers against limits. Shapes: `_N` pairs, `_P` prompts, `_R` resamples.
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from taolake.ids import unit_interval
from taolake.selection.calibrate import Calibration, fit
from taolake.trust.sample import Array, Sample
from taolake.verdict import Interval

_PER_BIN = 15  # pairs; fewer say nothing about a bin
_BINS = 10


def accuracy(sample: Sample) -> Interval:
    """Share of pairs ordered as people did; a tie is half right."""
    return sample.mean((1 + sample.verdict_N) / 2)


def top_one(sample: Sample) -> dict[str, Any] | None:
    """How often the scorer's favourite among three or more answers is the one a person took; ties share.

    Beside it `chance`, what a blind pick would get, and the number of `choices`. None where no choice had three.
    """
    acts: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for i, pair in enumerate(sample.pairs):
        acts[pair.prompt, pair.choice, pair.annotator].append(i)
    hit, chance, count = (np.zeros(len(sample)) for _ in range(3))
    for rows in acts.values():
        beaten = {sample.pairs[i].rejected for i in rows}
        options = beaten | {sample.pairs[i].chosen for i in rows}
        if len(options) < 3:
            continue
        values = {option: float(sample.values[option] or 0.0) for option in options}
        top = [option for option in sorted(options) if values[option] == max(values.values())]
        won = options - beaten
        hit[rows[0]], chance[rows[0]], count[rows[0]] = len(won & set(top)) / len(top), len(won) / len(options), 1
    if not count.any():
        return None
    found = sample.mean(hit, count)
    return {**named(found), "chance": float(chance.sum() / count.sum()), "choices": int(count.sum())}


def kappa(sample: Sample) -> Interval:
    """Cohen's kappa between scorer and people, on pairs read in the order of their ids; a tie agrees with nobody."""
    person, scorer = sample.first_N, sample.first_N * sample.verdict_N
    return _kappa(sample, person, scorer)


def annotator_kappa(sample: Sample) -> dict[str, Any] | None:
    """Cohen's kappa between people, over pairs that two or more of them judged; None where there are too few."""
    said: dict[tuple[str, ...], dict[str, int]] = defaultdict(dict)
    for i, pair in enumerate(sample.pairs):
        said[pair.prompt, *sorted((pair.chosen, pair.rejected))].setdefault(pair.annotator, i)
    one, two, both = (np.zeros(len(sample)) for _ in range(3))
    for rows in said.values():
        people = [rows[name] for name in sorted(rows)]
        for first, second in itertools.pairwise(people):
            one[first], two[first], both[first] = sample.first_N[first], sample.first_N[second], 1
    if both.sum() < _PER_BIN:
        return None
    return {**named(_kappa(sample, one, two)), "pairs": int(both.sum())}


def auc(sample: Sample) -> Interval:
    """Chance that a pair read the right way has a greater difference than one read the wrong way; ties count half."""
    prompts = sample.prompts
    # P(d_i > -d_j) over pairs i, j, added up by prompt, so that a resample is a quadratic form.
    order = np.sort(sample.difference_N)
    if prompts > 1500:  # the form would not fit: the number without its interval's quadratic cost
        above = len(order) - np.searchsorted(order, -sample.difference_N, side="right")
        equal = len(order) - np.searchsorted(order, -sample.difference_N, side="left") - above
        return sample.mean((above + equal / 2) / len(order))
    wins = np.zeros((prompts, prompts))
    sums = np.sign(np.round(sample.difference_N[:, None] + sample.difference_N[None, :], 12))
    np.add.at(wins, (sample.prompt_N[:, None], sample.prompt_N[None, :]), (1 + sums) / 2)
    sizes = sample.sums_P(np.ones(len(sample)))
    drawn = np.einsum("rp,rp->r", sample.weights_RP @ wins, sample.weights_RP) / (sample.weights_RP @ sizes) ** 2
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(wins.sum() / sizes.sum() ** 2), float(low), float(high))


def ties(sample: Sample) -> float:
    """Share of pairs whose answers get the same value."""
    return float((sample.verdict_N == 0).mean())


def cross_fitted(sample: Sample, kind: str) -> Array | None:
    """Chance that the chosen answer is preferred, by a calibration that did not see the pair's prompt.

    Two halves of the prompts, by their own ids; each is read with the map fitted on the other. None where a half is
    empty.
    """
    half_N = np.array([unit_interval("trust-fold", p.prompt) < 0.5 for p in sample.pairs])
    if half_N.all() or not half_N.any():
        return None
    chances = np.empty(len(sample))
    for half in (False, True):
        others = sample.difference_N[half_N != half].tolist()
        made = fit("isotonic" if kind == "isotonic" else "platt", others, [1.0] * len(others))
        mine = half_N == half
        chances[mine] = claimed(sample.difference_N[mine], made)
    return chances


def claimed(difference_N: Array, calibration: Calibration) -> Array:
    """Chances a calibration gives to differences."""
    return np.array([calibration.apply(float(d)) for d in difference_N])


def calibration_error(sample: Sample, chance_N: Array) -> dict[str, Any]:
    """Expected calibration error of the confidence in the preferred answer, in bins of equal mass.

    `mean` is the plain estimate, which is above 0 by chance alone: `floor` is what a perfectly calibrated scorer would
    show on as many pairs. `debiased` takes each bin's sampling variance out of its squared gap.

    Args:
        sample: the pairs.
        chance_N: chance given to the chosen answer.
    """
    # Rounded: 0.8 and 1 - 0.2 are one confidence, and which of the two it is tells whether the pair was right.
    confidence = np.round(np.maximum(chance_N, 1 - chance_N), 9)
    right = (1 + np.sign(np.round(chance_N - 0.5, 9))) / 2
    bin_N, bins = _bins(confidence)
    inside = [bin_N == b for b in range(bins)]
    columns = [column * mask for mask in inside for column in (right - confidence, np.ones(len(sample)))]

    def error(sums: Sequence[Array]) -> Array:
        total = np.sum(sums[1::2], axis=0)
        return np.asarray(np.sum(np.abs(sums[::2]), axis=0) / np.maximum(total, 1))

    found = sample.statistic(columns, error)
    floor = debiased = 0.0
    rows = []
    for mask in inside:
        n, p, y = int(mask.sum()), float(confidence[mask].mean()), float(right[mask].mean())
        variance = float((confidence[mask] * (1 - confidence[mask])).sum()) / n**2
        floor += n / len(sample) * float(np.sqrt(variance * 2 / np.pi))
        debiased += n / len(sample) * max(0.0, (y - p) ** 2 - variance) ** 0.5
        share = sample.mean(right, mask.astype(np.float64))
        rows.append({"claimed": p, "right": y, "low": share.low, "high": share.high, "pairs": n})
    return {**named(found), "floor": floor, "debiased": debiased, "bins": rows}


def accuracy_by_task(sample: Sample) -> list[dict[str, Any]]:
    """Pairwise accuracy of each task."""
    tasks = sorted({p.task for p in sample.pairs})
    masks = [np.array([p.task == task for p in sample.pairs], dtype=np.float64) for task in tasks]
    right = (1 + sample.verdict_N) / 2
    return [
        {"task": task, "pairs": int(mask.sum()), **named(sample.mean(right, mask))}
        for task, mask in zip(tasks, masks, strict=True)
    ]


def accuracy_by_margin(sample: Sample, parts: int = 3) -> list[dict[str, Any]]:
    """Pairwise accuracy where the scorer is least sure, in between, and most sure; parts of equal mass."""
    size = np.abs(sample.difference_N)
    order = np.argsort(size, kind="stable")
    found = []
    for rows in np.array_split(order, min(parts, len(sample))):
        mask = np.zeros(len(sample))
        mask[rows] = 1
        share = sample.mean((1 + sample.verdict_N) / 2, mask)
        found.append(
            {"from": float(size[rows].min()), "to": float(size[rows].max()), "pairs": len(rows), **named(share)}
        )
    return found


def named(interval: Interval) -> dict[str, float]:
    """An interval as JSON."""
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def _kappa(sample: Sample, one_N: Array, two_N: Array) -> Interval:
    """Kappa of two verdicts in {-1, 0, +1}; where the first is 0 there is no pair."""
    there = (one_N != 0).astype(np.float64)
    columns = [there, there * (one_N == two_N)]
    columns += [(verdict == sign) * there for sign in (-1, 1) for verdict in (one_N, two_N)]

    def value(sums: Sequence[Array]) -> Array:
        n = np.maximum(sums[0], 1)
        agreed, expected = sums[1] / n, sums[2] * sums[3] / n**2 + sums[4] * sums[5] / n**2
        # Expected agreement is 1 only where both always say the same: then there is nothing beyond it to reach.
        return np.where(expected < 1, (agreed - expected) / np.maximum(1 - expected, 1e-12), 0.0)

    return sample.statistic(columns, value)


def _bins(confidence: Array) -> tuple[Array, int]:
    """Bins of equal mass; equal confidences stay together, so there may be fewer."""
    wanted = int(np.clip(len(confidence) // _PER_BIN, 1, _BINS))
    edges = np.unique(np.quantile(confidence, np.arange(1, wanted) / wanted))
    place = np.searchsorted(edges, confidence, side="right")
    _, dense = np.unique(place, return_inverse=True)
    return dense.astype(np.float64), int(dense.max()) + 1
