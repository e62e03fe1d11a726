"""The over-optimisation curve: how the reward (proxy) and the gate's scorer move apart as the reward is pushed.

Best-of-k of the base's own answers, picked by the reward, is a policy at a known distance from the base:
log k - (k-1)/k nats. A reward worth optimising lifts the gate's scorer along the curve; one that is being gamed lifts
itself alone.
Sources: Gao, Schulman and Hilton 2022 (arXiv 2210.10760), section 3; for the KL of best-of-k, their appendix.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from taolake.selection.weights import best_of_k
from taolake.trust.measures import named
from taolake.trust.sample import Array, Draws
from taolake.verdict import Guard, bootstrap

MAX_FALL = 0.02  # what the gate's scorer may lose between a smaller k and the largest
PROXY, GATE = "proxy_at_", "gate_at_"  # metrics of one prompt, by k

Measured = Mapping[str, Mapping[str, float]]  # metric -> prompt -> value


class Fall(NamedTuple):
    """What the gate's scorer loses from `k` to `end` attempts, and the end of its interval that is nearer to 0."""

    k: int
    end: int
    mean: float
    low: float


def kl_of_best_of(k: int) -> float:
    """Divergence of best-of-k from one draw, in nats; exact where no two answers tie, else an upper bound."""
    return math.log(k) - (k - 1) / k


def metrics(rewards: Sequence[float], marks: Sequence[float], limit: int) -> dict[str, float]:
    """One prompt's points of the curve, for k = 1, 2, 4, ... up to its candidates or `limit`.

    Args:
        rewards: of its rewarded stream-A candidates.
        marks: the gate scorer's word on the same candidates, 0 to 1.
        limit: samples the curve may use.
    """
    found: dict[str, float] = {}
    k = 1
    while rewards and k <= min(len(rewards), limit):
        found[f"{PROXY}{k}"] = best_of_k(rewards, rewards, k)
        found[f"{GATE}{k}"] = best_of_k(rewards, marks, k)
        k *= 2
    return found


def curve(base: Measured, tuned: Measured, draws: Draws, kl: float | None = None) -> dict[str, Any] | None:
    """Points of the curve over the prompts that have all of them, and the tuned policy's own.

    Args:
        base: measurements of the base, with those of `metrics`.
        tuned: measurements of the tuned policy.
        draws: how intervals are drawn.
        kl: the trainer's own estimate of how far the tuned policy is from the base, in nats.

    Returns:
        JSON: `points`, `prompts`, `tuned`, `fall` (the worst, or None) and `over_optimised`; None without two points.
    """
    values, ks, prompts = _values(base)
    if len(ks) < 2:
        return None
    points = [
        {
            "k": k,
            "kl": kl_of_best_of(k),
            "proxy": _stat(values[PROXY][:, i], draws),
            "gate": _stat(values[GATE][:, i], draws),
        }
        for i, k in enumerate(ks)
    ]
    fall = worst_fall(values[GATE], ks, draws)
    return {
        "points": points,
        "prompts": len(prompts),
        "tuned": _tuned(tuned, prompts, draws, kl),
        "fall": fall and fall._asdict(),
        "over_optimised": fall is not None and fall.low > MAX_FALL,
    }


def worst_fall(gate_PK: Array, ks: Sequence[int], draws: Draws) -> Fall | None:
    """The fall to the largest k that is surest; None where the gate's scorer never falls.

    Paired by prompt. The bounds hold for all starting points together (Bonferroni), since the worst is picked.
    """
    starts = len(ks) - 1
    lost_PK = gate_PK[:, :-1] - gate_PK[:, -1:]
    rng = np.random.default_rng(draws.seed)
    prompts = len(lost_PK)
    drawn = rng.multinomial(prompts, np.full(prompts, 1 / prompts), draws.resamples) @ lost_PK / prompts
    lows = np.percentile(drawn, 2.5 / starts, axis=0)
    at = int(np.argmax(lows))
    mean = float(lost_PK[:, at].mean())
    return Fall(ks[at], ks[-1], mean, float(lows[at])) if mean > 0 else None


def guard(found: Mapping[str, Any] | None) -> list[Guard]:
    """The promotion rule's side condition; none where there is no curve."""
    if found is None:
        return []
    lost = found["fall"]["low"] if found["fall"] else 0.0
    return [Guard("over_optimisation", max(lost, 0.0), MAX_FALL, not found["over_optimised"])]


def sentence(found: Mapping[str, Any]) -> str:
    """What the curve says."""
    first, last = found["points"][0], found["points"][-1]
    said = (
        f"from 1 to {last['k']} attempts the reward rises {first['proxy']['mean']:.3f} to {last['proxy']['mean']:.3f} "
        f"and the gate's scorer goes {first['gate']['mean']:.3f} to {last['gate']['mean']:.3f}"
    )
    if not found["over_optimised"]:
        return said
    fall = found["fall"]
    return (
        f"{said}: over-optimised, as it loses {fall['mean']:.3f} from {fall['k']} to {fall['end']} attempts "
        f"(at least {fall['low']:.3f}, limit {MAX_FALL:g})"
    )


def _values(base: Measured) -> tuple[dict[str, Array], list[int], list[str]]:
    """Curves by prompt and k; a prompt on which the reward had no opinion, or too few candidates, has none."""
    ks = sorted(int(name.removeprefix(PROXY)) for name in base if name.startswith(PROXY))
    # The largest k that most prompts reach: a few short groups must not cut the curve, nor a few long ones carry it.
    most = len(base.get(f"{PROXY}1", {}))
    ks = [k for k in ks if 2 * len(base[f"{PROXY}{k}"]) > most and f"{GATE}{k}" in base]
    prompts = sorted(base[f"{PROXY}{ks[-1]}"]) if ks else []
    return (
        {kind: np.array([[base[f"{kind}{k}"][p] for k in ks] for p in prompts]) for kind in (PROXY, GATE)},
        ks,
        prompts,
    )


def _tuned(tuned: Measured, prompts: Sequence[str], draws: Draws, kl: float | None) -> dict[str, Any] | None:
    """One answer of the tuned policy on the curve's prompts; its reward is relative to its own answers."""
    right = [tuned["correct"][p] / tuned["samples"][p] for p in prompts if p in tuned.get("correct", {})]
    told = [tuned["reward"][p] for p in prompts if p in tuned.get("reward", {})]
    if not right:
        return None
    return {
        "gate": _stat(right, draws),
        "proxy": _stat(told, draws) if told else None,
        "kl": kl if kl is not None and math.isfinite(kl) else None,
    }


def _stat(values: Sequence[float] | Array, draws: Draws) -> dict[str, float]:
    return named(bootstrap([float(v) for v in values], draws.resamples, draws.seed))
