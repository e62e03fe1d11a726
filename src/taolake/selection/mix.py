"""How often the prompts of each task are seen when several are tuned together. Pure: counts in, draws out.

Shares follow weight * count ^ temperature: at 1 every prompt counts alike and the largest task rules; at 0 every task
counts alike. Source of the exponent: multilingual pre-training's alpha (XLM, arXiv 1901.07291, section 3.1).
"""

from collections.abc import Mapping

import numpy as np


def quotas(counts: Mapping[str, int], weights: Mapping[str, float], temperature: float) -> dict[str, int]:
    """How many prompts of each task are seen, the largest remainder first; as many in all as there are.

    Args:
        counts: prompts of each task, above 0.
        weights: by task; one that is missing is 1.
        temperature: 0 to 1.

    Raises:
        ValueError: a task has no prompts.
    """
    empty = sorted(name for name, count in counts.items() if count < 1)
    if empty:
        raise ValueError(f"task {empty[0]!r} has no prompts to learn from, wanted at least one: look at its selection")
    total = sum(counts.values())
    raw = {name: weights.get(name, 1.0) * count**temperature for name, count in counts.items()}
    exact = {name: total * share / sum(raw.values()) for name, share in raw.items()}
    found = {name: int(value) for name, value in exact.items()}
    rest = total - sum(found.values())
    for name in sorted(exact, key=lambda n: (found[n] - exact[n], n))[:rest]:
        found[name] += 1
    return found


def draw(names: list[str], quota: int, seed: int) -> list[str]:
    """A task's prompts as often as its quota says: whole rounds of all of them, then some without repetition."""
    order = sorted(names)
    rounds, rest = divmod(quota, len(order))
    some = np.random.default_rng(seed).permutation(len(order))[:rest]
    return order * rounds + [order[i] for i in sorted(some)]
