"""Promote, hold or roll back: what the signals of two versions say while both answer.

Every signal is read by the sequential test. The mean of all bets that the new version is worse decides the rollback, so
the chance to roll back an equal version is at most alpha however many signals there are. For a promotion each signal
must show that it is not worse by the margin. What was reached first counts: a later look changes no past decision.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from taolake.config import Canary
from taolake.watch import sequential
from taolake.watch.sequential import Word

_CROWD = 20  # requests a user from which a user is hardly one person
SERVICE = ("answered",)  # signals that say nothing of quality: alone they promote nobody
Verdict = Literal["promote", "hold", "rollback"]


@dataclass(frozen=True)
class Signal:
    """What one signal says.

    Attributes:
        live, canary: words on either version, and their mean value.
        difference: canary less live, over pairs, with an interval that holds at all looks at once.
        worse: the most capital that betting on "worse" had; `not_worse`: on "not worse by the margin".
    """

    name: str
    live: tuple[int, float | None]
    canary: tuple[int, float | None]
    difference: sequential.Reading
    worse: float
    not_worse: float


@dataclass(frozen=True)
class Decision:
    """What to do with a new version, why, and what it rests on."""

    verdict: Verdict
    reason: str
    at: float | None = None
    signals: list[Signal] = field(default_factory=list)


def decide(words: Mapping[str, Sequence[Word]], spec: Canary) -> Decision:
    """Read all signals.

    Args:
        words: of every signal, in any order; one that nobody said anything by is left out.
        spec: limits of the project file.
    """
    pairs = {name: sequential.pairs(said) for name, said in words.items() if said}
    if not any(pairs.values()):
        return Decision("hold", "nothing to compare yet: no signal has a word on both versions")
    worse = {name: sequential.against_equal(found) for name, found in pairs.items()}
    not_worse = {name: sequential.against_margin(found, spec.margin) for name, found in pairs.items()}
    signals = [
        Signal(
            name,
            _side(words[name], False),
            _side(words[name], True),
            sequential.reading(found, spec.alpha),
            worse[name].most,
            not_worse[name].most,
        )
        for name, found in sorted(pairs.items())
    ]
    back = sequential.crossed(sequential.together(list(worse.values())), spec.alpha)
    reached = {name: sequential.crossed(capital, spec.alpha) for name, capital in not_worse.items()}
    open_ = sorted(name for name, at in reached.items() if at is None)
    on = None if open_ or not set(reached) - set(SERVICE) else max(at for at in reached.values() if at is not None)
    if back is not None and (on is None or back <= on):
        worst = max(signals, key=lambda signal: signal.worse)
        return Decision("rollback", f"worse by {_said(worst, 'worse')}", back, signals)
    if on is not None:
        return Decision("promote", f"not worse by {spec.margin:g} in {', '.join(sorted(reached))}", on, signals)
    waits = ", ".join(_said(s, "not_worse") for s in signals if s.name in open_) or "a signal of quality"
    return Decision("hold", f"not decided; waiting for {waits}", None, signals)


def crowded(requests: int, users: int) -> str:
    """A hint where few users ask so often that counting each once decides nothing; empty otherwise."""
    if not users or requests < _CROWD * users:
        return ""
    return (
        f"; {requests} requests came from {users} users, who count once each: set canary.unit to request if these are "
        "programs that ask for many people"
    )


def _said(signal: Signal, which: Literal["worse", "not_worse"]) -> str:
    mean, low, high = signal.difference[1:]
    capital = signal.worse if which == "worse" else signal.not_worse
    return (
        f"{signal.name}: {mean:+.3f} [{low:+.3f}, {high:+.3f}] over {signal.difference.pairs} pairs, evidence "
        f"{capital:.3g}"
    )


def _side(words: Sequence[Word], canary: bool) -> tuple[int, float | None]:
    values = [word.value for word in words if word.canary is canary]
    return len(values), sum(values) / len(values) if values else None
