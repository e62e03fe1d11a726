"""How strategies share further answers: by how often one of theirs was a winner that the plain prompt did not have.

Pure: values of scored answers in, shares and turns out. An exploring strategy wins with an answer that is better than
all of the plain one's to the same prompt; the plain one with an answer better than all its others, which is what one
more of them would bring. Shares are those of the project file times these rates; the plain strategy keeps at least its
own, since all that needs probability ratios comes from it (docs/design.md, section 6).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

_WEIGHT = 50.0  # answers that a rate is drawn to the mean of all with: few tell little of what happens seldom


class Won(NamedTuple):
    """Scored answers of a strategy, and those of them that won."""

    wins: int
    tries: int


def won(prompts: Iterable[Mapping[str, Sequence[float]]], plain: Collection[str]) -> dict[str, Won]:
    """What each strategy won.

    Args:
        prompts: for each the values of its scored answers, by strategy. One that no exploring strategy has answered
            tells nothing, so that all are measured on the same prompts: those that were asked again.
        plain: strategies of stream A.
    """
    wins, tries = Counter[str](), Counter[str]()
    for values in prompts:
        if not any(theirs for name, theirs in values.items() if name not in plain):
            continue
        ours = sorted(value for name in plain for value in values.get(name, ()))
        for name, theirs in values.items():
            if len(ours) <= (name in plain):
                continue
            best, second = ours[-1], ours[-2] if len(ours) > 1 else 0.0
            tries[name] += len(theirs)
            # The best answer of the plain strategy is held against the second best, every other one is no winner.
            wins[name] += sum(value > (second if name in plain and value == best else best) for value in theirs)
    return {name: Won(wins[name], count) for name, count in tries.items()}


def shares(set_: Mapping[str, float], told: Mapping[str, Won], plain: Collection[str]) -> dict[str, float]:
    """Shares after what was won; as they were set where nobody won anything.

    Args:
        set_: shares of the project file, which add up to 1.
        told: of `won`.
        plain: strategies of stream A, whose part does not fall.
    """
    tries, wins = (sum(each[i] for each in told.values()) for i in (1, 0))
    if not wins:
        return dict(set_)
    mean = wins / tries
    seen = {name: told.get(name, Won(0, 0)) for name in set_}
    raw = {n: share * (seen[n].wins + _WEIGHT * mean) / (seen[n].tries + _WEIGHT) for n, share in set_.items()}
    ours = sum(raw[name] for name in plain)
    others = sum(raw.values()) - ours
    part = max(sum(set_[name] for name in plain), ours / (ours + others))
    scale = {True: part / ours if ours else 0.0, False: (1 - part) / others if others else 0.0}
    return {name: value * scale[name in plain] for name, value in raw.items()}


def turns(given: Mapping[str, int], more: int, share: Mapping[str, float], plain: str, probe: int) -> Counter[str]:
    """Whose the next answers to a prompt are: the plain strategy's for the probe, then who is furthest behind.

    Args:
        given: answers it has asked for so far, by strategy.
        more: answers it gets now.
        share: of `shares`.
        plain: the strategy that probes.
        probe: answers of the plain strategy alone that come first.
    """
    now = Counter(dict(given))
    for _ in range(more):
        total = now.total() + 1
        now[plain if total <= probe else max(share, key=lambda name: share[name] * total - now[name])] += 1
    return now - Counter(dict(given))
