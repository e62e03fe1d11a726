"""How much each candidate of one prompt should teach: best-of-k weights, advantages, seeded draws.

Lists in, lists out, one prompt at a time; abstained candidates are left out before. NaN is refused.
Formulas: docs/design.md, section 6.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np


def order_statistic_weights(rewards: Sequence[float], k: int) -> list[float]:
    """Probability that each candidate wins a random best-of-k: C(i-1, k-1) / C(n, k) for ascending rank i.

    Averaged over ties; the weights add up to 1. More draws than candidates (k > n) is best-of-n.
    """
    _require_numbers("rewards", rewards)
    if k < 1:
        raise ValueError(f"got k={k}, wanted at least 1 candidate to choose among")
    n = len(rewards)
    k = min(k, n)
    weights = [0.0] * n
    rank = 0
    for _, tied in groupby(sorted(range(n), key=lambda i: rewards[i]), key=lambda i: rewards[i]):
        members = list(tied)
        # sum of C(i-1, k-1) over the ranks rank+1..rank+m telescopes
        mass = math.comb(rank + len(members), k) - math.comb(rank, k)
        for i in members:
            weights[i] = mass / len(members) / math.comb(n, k)
        rank += len(members)
    return weights


def best_of_k(rewards: Sequence[float], gold: Sequence[float], k: int) -> float:
    """Expected gold value of the candidate a random best-of-k picks by reward; unbiased, ties drawn evenly."""
    if len(rewards) != len(gold) or not rewards:
        raise ValueError(f"got {len(rewards)} rewards and {len(gold)} gold values, wanted equal numbers above 0")
    _require_numbers("gold", gold)
    return math.fsum(w * g for w, g in zip(order_statistic_weights(rewards, k), gold, strict=True))


def value(rewards: Sequence[float], beta_v: float) -> float:
    """Soft value of a prompt, V* = beta_v log mean exp(r / beta_v), without overflow; the mean as beta_v grows."""
    _require_numbers("rewards", rewards)
    if not rewards or beta_v <= 0:
        raise ValueError(f"got {len(rewards)} rewards and beta_v={beta_v}, wanted at least one and a positive beta_v")
    top = max(rewards)
    return top + beta_v * math.log(math.fsum(math.exp((r - top) / beta_v) for r in rewards) / len(rewards))


def advantages(rewards: Sequence[float], beta_v: float) -> list[float]:
    """How far each candidate is above the prompt's soft value: A_i = r_i - V*."""
    baseline = value(rewards, beta_v)
    return [r - baseline for r in rewards]


def tilt(rewards: Sequence[float], k: int) -> list[float]:
    """What makes the regression's fixed point the best-of-k policy: (k - 1) log F, with F the mid-rank over n.

    F(y) is the share of candidates below y plus half of those level with it. Best-of-k is the base tilted by
    k F^(k-1), so these stand in for rewards at beta 1, whatever the rewards' scale.
    """
    _require_numbers("rewards", rewards)
    if k < 1:
        raise ValueError(f"got k={k}, wanted at least 1 candidate to choose among")
    n = len(rewards)
    below = [sum(other < mine for other in rewards) + sum(other == mine for other in rewards) / 2 for mine in rewards]
    return [(k - 1) * math.log(share / n) for share in below]


def draw(weights: Sequence[float], m: int, seed: int) -> list[int]:
    """Draw up to m candidates without replacement, each next one in proportion to its weight among those left.

    A zero weight is never drawn, so fewer than m may come back. The order is the order of drawing.
    """
    _require_numbers("weights", weights)
    if m < 0 or min(weights, default=0) < 0:
        raise ValueError(f"got m={m} and smallest weight {min(weights, default=0)}, wanted neither below 0")
    waits = np.random.default_rng(seed).exponential(size=len(weights))
    # The first arrivals of independent clocks with rates w are exactly a successive draw in proportion to w.
    arrivals = [(float(wait) / w, i) for i, (wait, w) in enumerate(zip(waits, weights, strict=True)) if w > 0]
    return [i for _, i in sorted(arrivals)[:m]]


def different_in(sizes: Mapping[int, int], m: int) -> float:
    """How many different texts m rows drawn without replacement hold on average: rarefaction (Hurlbert 1971).

    The share of different texts falls as rows are added; held at one number of rows it can be compared.

    Args:
        sizes: how many texts are there once, twice, ...
        m: at most as many as there are rows.
    """
    n = sum(size * texts for size, texts in sizes.items())
    if m > n:
        raise ValueError(f"got m={m}, wanted at most the {n} rows there are")

    def missed(size: int) -> float:
        """C(n - size, m) / C(n, m): none of a text's rows is drawn."""
        return math.prod((n - m - i) / (n - i) for i in range(size))

    return sum(texts * (1 - missed(size)) for size, texts in sizes.items())


def _require_numbers(name: str, numbers: Sequence[float]) -> None:
    bad = [i for i, x in enumerate(numbers) if not math.isfinite(x)]
    if bad:
        raise ValueError(f"got {name}[{bad[0]}] = {numbers[bad[0]]}, wanted finite numbers: leave unscored ones out")
