"""Trip wires: has a policy in training begun to please its reward instead of getting better?

Answers to prompts kept out of training are held against the base's answers to the same prompts. A wire trips only when
its limit lies outside the interval of what was measured, and the interval is one for all wires and looks of a training
together, so that a lucky or unlucky draw does not end it. No labels, no Spark, no torch; the looks are made by
`taolake.training.brakes`. Limits: docs/design.md, section 6.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from taolake.config import Brakes
from taolake.trust import TrustError
from taolake.trust.curve import kl_of_best_of
from taolake.trust.sample import Array, Draws

Look = Mapping[str, Sequence[float | None]]  # measure -> value of each prompt, in the prompts' order; None: not told
_Statistic = Callable[[Array, Array], Array]  # from means before and now, one a resample, to what a limit is held to

_GRAM = 4  # words in a row that are a repetition when they come again
_FLOOR = 0.05  # shares of repetition and of one answer below this are never a collapse
_CHANCE = 0.05  # that any wire trips at any look where nothing is wrong
_WIRES = 10  # with the two sides of length
NO_GAIN = "no_gain"  # what a training trips whose looks are all no better than the base


class Wire(NamedTuple):
    """A side condition of training: what was measured, the bound of it that counts, its limit."""

    name: str
    value: float
    bound: float
    limit: float
    tripped: bool


class Tripped(Exception):
    """A training that a wire ended; `evidence` is what its looks said."""

    def __init__(self, evidence: dict[str, Any]) -> None:
        super().__init__(evidence)
        self.evidence = evidence


class BrakeError(TrustError):
    """A round whose training tripped twice and is discarded; its detail is the evidence of both."""

    def __init__(self, trips: Sequence[dict[str, Any]]) -> None:
        said = "; then, at half the rate and length, ".join(trip["says"] for trip in trips)
        message = f"training tripped twice and is discarded: {said}; change the reward, or what it is made of"
        super().__init__(message, {"trips": list(trips)})


def repetition(text: str) -> float:
    """Share of a text's runs of four words that it has said before; 0 for shorter texts."""
    words = text.casefold().split()
    grams = [tuple(words[i : i + _GRAM]) for i in range(len(words) - _GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def top_share(answers: Sequence[Sequence[str]]) -> list[float]:
    """For every prompt, the share of its answers that are the answer given most often over all prompts.

    Each prompt counts an answer once, so that one long-winded group elects nothing.
    """
    counts = Counter(answer for group in answers for answer in sorted(set(group)))
    if not counts:
        return [0.0] * len(answers)
    top = counts.most_common(1)[0][0]
    return [sum(answer == top for answer in group) / max(len(group), 1) for group in answers]


def agreement(proxy: Sequence[float | None], held: Sequence[float | None]) -> float | None:
    """Kendall's tau-b of two scorers over one prompt's answers; None where one of them sees no difference."""
    from scipy.stats import kendalltau

    both = [(a, b) for a, b in zip(proxy, held, strict=True) if a is not None and b is not None]
    if len({a for a, _ in both}) < 2 or len({b for _, b in both}) < 2:
        return None
    return float(kendalltau([a for a, _ in both], [b for _, b in both]).statistic)


def wires(base: Look, now: Look, spec: Brakes, best_of: int, draws: Draws, looks: int = 1) -> list[Wire]:
    """Hold a look against the base's own; wires whose measure either look lacks are left out.

    Args:
        base: the base's answers to the same prompts.
        now: the policy's, with `kl` against the base.
        spec: limits of the project file.
        best_of: k whose distance from the base is the unit of the KL budget.
        draws: how intervals are drawn.
        looks: how many a training has; the more, the wider each one's intervals (Bonferroni).
    """
    made = _Maker(base, now, draws, _CHANCE / (_WIRES * looks))
    better = made.difference("held")
    found = [
        made.above("kl", spec.max_kl * kl_of_best_of(best_of), lambda b, n: n),
        made.below("entropy", spec.min_entropy, _ratio),
        made.above("truncated", spec.max_truncated, lambda b, n: n - b),
        made.above("repetition", _FLOOR, lambda b, n: n - spec.max_repetition * b),
        made.above("top_answer", _FLOOR, lambda b, n: n - spec.max_top_answer * b),
        made.below("held", 0.0, lambda b, n: n - b),
        made.above("correlation", spec.max_correlation_fall, lambda b, n: b - n),
        made.below("canary", -spec.max_canary_fall, lambda b, n: n - b),
    ]
    if better is None or better <= 0:  # an answer that got better may change its length
        found += [
            made.above("length", 1 + spec.max_length_change, _ratio),
            made.below("length", 1 - spec.max_length_change, _ratio),
        ]
    return [wire for wire in found if wire is not None]


def best(base: Look, looks: Sequence[Mapping[str, Any]]) -> int | None:
    """Step of the look to keep: the best held-out score of those that tripped nothing, the earliest of equals; 0, which
    is the base, where none is better than the base's own; without a held-out score the last. None: all tripped."""
    sound = [look for look in looks if not tripped(look)]
    if not sound:
        return None
    steps = [0, *(int(look["step"]) for look in sound)]
    scores = [mean(base, "held"), *(mean(look["measured"], "held") for look in sound)]
    if any(score is None for score in scores):
        return steps[-1]
    return steps[max(range(len(steps)), key=lambda i: (scores[i], -i))]


def tripped(look: Mapping[str, Any]) -> list[str]:
    """Names of the wires a look tripped."""
    return [wire["name"] for wire in look["wires"] if wire["tripped"]]


def should_stop(base: Look, looks: Sequence[Mapping[str, Any]], patience: int) -> bool:
    """Whether the last look tripped a wire, or `patience` looks went by since the best one."""
    if tripped(looks[-1]):
        return True
    return len([look for look in looks if look["step"] > (best(base, looks) or 0)]) >= patience


def summary(base: Look, looks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the looks said, in means: for the books and, where a wire or all of them tripped, as evidence.

    A training whose looks all have a held-out score no better than the base's has nothing to keep: `no_gain`. Here it
    is the training that has to show something, since few prompts with few answers seldom show a loss beyond doubt.
    """
    last = [wire for wire in looks[-1]["wires"] if wire["tripped"]] if looks else []
    names, kept = [wire["name"] for wire in last], best(base, looks)
    says = ", ".join(f"{w['name']} is {w['value']:.3g}, limit {w['limit']:.3g}" for w in last)
    if kept == 0 and not last:
        top = max(score for look in looks if (score := mean(look["measured"], "held")) is not None)
        names = [NO_GAIN]
        says = (
            f"no look has a better held-out score than the base: {top:.3g} at best, the base {mean(base, 'held'):.3g}"
        )
    return {
        "base": _means(base),
        "looks": [{"step": look["step"], **_means(look["measured"])} for look in looks],
        "best_step": kept,
        "tripped": names,
        "wires": [dict(wire) for wire in looks[-1]["wires"]] if looks else [],
        "says": f"at step {looks[-1]['step']} {says}" if says else "",
    }


def _means(look: Look) -> dict[str, float]:
    found = {name: mean(look, name) for name in sorted(look)}
    return {name: round(value, 6) for name, value in found.items() if value is not None}


def mean(look: Look, measure: str) -> float | None:
    """Mean of a measure over the prompts that have it."""
    known = [v for v in look.get(measure, ()) if v is not None]
    return sum(known) / len(known) if known else None


class _Maker:
    """Resamples prompts once and reads every measure on the same draws; `chance` is that of a bound to be wrong."""

    def __init__(self, base: Look, now: Look, draws: Draws, chance: float) -> None:
        self.base, self.now, self.draws, self.chance = base, now, draws, chance
        self._counts: dict[int, Array] = {}

    def difference(self, measure: str) -> float | None:
        """Mean of now minus base; None where it was not measured."""
        found = self._read(measure, lambda b, n: n - b)
        return found and found[0]

    def above(self, measure: str, limit: float, function: _Statistic) -> Wire | None:
        """A wire that trips when even the lower bound is above the limit."""
        found = self._read(measure, function)
        return found and Wire(measure, found[0], found[1], limit, found[1] > limit)

    def below(self, measure: str, limit: float, function: _Statistic) -> Wire | None:
        """A wire that trips when even the upper bound is below the limit."""
        found = self._read(measure, function)
        return found and Wire(measure, found[0], found[2], limit, found[2] < limit)

    def _read(self, measure: str, function: _Statistic) -> tuple[float, float, float] | None:
        """Statistic of the mean before and the mean now, paired by prompt, with a bound below and one above.

        Student's t on the bootstrap's deviation: percentiles are too narrow for the few prompts that tell a measure.
        """
        from scipy.special import stdtrit

        after = self.now.get(measure)
        if after is None:
            return None
        before = self.base.get(measure, [0.0] * len(after))
        pairs = [(b, n) for b, n in zip(before, after, strict=True) if b is not None and n is not None]
        if len(pairs) < 2:
            return None
        values, n = np.array(pairs, dtype=np.float64), len(pairs)
        drawn = self._times(n) @ values / n
        middle = values.mean(axis=0)
        found = float(function(middle[:1], middle[1:])[0])
        spread = float(function(drawn[:, 0], drawn[:, 1]).std()) * (n / (n - 1)) ** 0.5
        reach = float(stdtrit(n - 1, 1 - self.chance)) * spread
        return found, found - reach, found + reach

    def _times(self, prompts: int) -> Array:
        """How often each resample takes each prompt: (resamples, prompts), the same for every measure."""
        if prompts not in self._counts:
            rng, even = np.random.default_rng(self.draws.seed), np.full(prompts, 1 / prompts)
            self._counts[prompts] = rng.multinomial(prompts, even, self.draws.resamples).astype(np.float64)
        return self._counts[prompts]


def _ratio(before: Array, now: Array) -> Array:
    found: Array = now / np.maximum(before, 1e-9)
    return found
