"""How many answers should the reward be let choose among? The peak of best-of-k by someone who did not train.

A reward is right about most answers and wrong about some; the more answers it picks among, the likelier the pick is one
it is wrong about. Best-of-k, picked by the reward and read by people or a verifier, rises with k, has a peak, and may
fall. Beyond the peak the reward is being gamed, and training towards a larger best-of-k would be, too. Measured on
training prompts, before anything is trained; `curve` does the same on the holdout, for the gate.
Source of the estimator: the order-statistic weights of docs/design.md, section 6.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from taolake.selection.weights import best_of_k
from taolake.trust.measures import named
from taolake.trust.sample import Draws, Pair
from taolake.verdict import Interval, bootstrap

PEOPLE = "people"


class Group(NamedTuple):
    """One prompt's answers that both the reward and the slice have an opinion on."""

    rewards: list[float]
    marks: list[float]


class Peak(NamedTuple):
    """The peak of the curve: its k, the points for k = 1, 2, ..., the rise from one answer to the peak, the prompts."""

    k: int
    points: tuple[Interval, ...]
    rise: Interval
    prompts: int


def peak(groups: Sequence[Group], most: int, draws: Draws) -> Peak | None:
    """The smallest k with the highest best-of-k, for k = 1 to the largest that more than half of the prompts reach.

    Args:
        groups: by prompt; those with too few answers for the largest k are left out.
        most: k that is never passed.
        draws: how intervals are drawn, over prompts.

    Returns:
        The peak; None where no prompt has two answers.
    """
    sizes = [len(group.rewards) for group in groups if len(group.rewards) > 1]
    largest = max((k for k in range(2, most + 1) if 2 * sum(size >= k for size in sizes) > len(sizes)), default=1)
    if largest < 2:
        return None
    kept = [group for group in groups if len(group.rewards) >= largest]
    read = np.array([[best_of_k(g.rewards, g.marks, k) for k in range(1, largest + 1)] for g in kept])
    # Rounded, so that the last bit of a sum makes no peak of a plateau.
    at = int(np.argmax(read.mean(axis=0).round(9)))
    points = tuple(bootstrap(column.tolist(), draws.resamples, draws.seed) for column in read.T)
    rise = bootstrap((read[:, at] - read[:, 0]).tolist(), draws.resamples, draws.seed)
    return Peak(at + 1, points, rise, len(kept))


def of_choices(pairs: Sequence[Pair], rewards: dict[str, float | None]) -> list[Group]:
    """Groups from people's choices: an answer's mark is the share of its comparisons that it won."""
    won: dict[str, dict[str, list[float]]] = {}
    for pair in pairs:
        for name, mark in ((pair.chosen, 1.0), (pair.rejected, 0.0)):
            if rewards.get(name) is not None:
                won.setdefault(pair.prompt, {}).setdefault(name, []).append(mark)
    return [
        Group([float(rewards[name] or 0.0) for name in sorted(told)], [_mean(told[name]) for name in sorted(told)])
        for _, told in sorted(won.items())
    ]


def report(found: Peak, by: str) -> dict[str, Any]:
    """The peak as JSON, for the books and the card."""
    return {
        "k": found.k,
        "measured_by": by,
        "prompts": found.prompts,
        "points": [{"k": i + 1, **named(point)} for i, point in enumerate(found.points)],
        "rise": named(found.rise),
        "says": sentence(found, by),
    }


def sentence(found: Peak, by: str) -> str:
    """What the curve says."""
    read = "people's choices" if by == PEOPLE else f"scorer {by}"
    begin = (
        f"held against {read} on {found.prompts} prompts, the reward's pick is right {found.points[0].mean:.3f} of 1"
    )
    if found.k == 1:
        return f"{begin} answer and {found.points[-1].mean:.3f} of {len(found.points)}: it never rises above one answer"
    last = "" if found.k == len(found.points) else f" and {found.points[-1].mean:.3f} of {len(found.points)}"
    doubt = "" if found.rise.low > 0 else "; the rise is within its interval of nothing"
    return (
        f"{begin} answer, {found.points[found.k - 1].mean:.3f} of {found.k}{last}: best-of-{found.k} is trained{doubt}"
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
