"""What a scorer pays for beyond what people pay for: length, a word, a place, a policy; and how steady it is.

All but the last two compare the scorer's picks with people's on the same pairs: where better answers are longer, people
pick longer ones too, and only the rest is a bias. Shapes: `_N` pairs.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from taolake.trust.measures import named
from taolake.trust.sample import Draws, Pair, Sample
from taolake.verdict import bootstrap


@dataclass(frozen=True)
class Swapped:
    """A pairwise judge's verdicts on some pairs of a prompt, each asked in both orders.

    `pairs` were asked, `flips` of them changed with the order; `first` is how many flips favoured the first place minus
    how many favoured the second, None where that was not noted.
    """

    prompt: str
    pairs: float
    flips: float
    first: float | None = None


_WORD = re.compile(r"\w+|[^\w\s]")
_MIN_PROMPTS = 10  # a word that sets answers apart on fewer prompts cannot be told from chance


def length_slope(sample: Sample) -> dict[str, Any] | None:
    """How much longer the answers are that the scorer prefers than those people prefer, in deviations of log length.

    `mean` is the excess; `scorer` and `people` are what each prefers. None where all answers are equally long.
    """
    x_N = np.array([math.log((len(p.chosen_text) + 1) / (len(p.rejected_text) + 1)) for p in sample.pairs])
    deviation = float(np.sqrt((x_N**2).mean()))
    if deviation == 0:
        return None
    x_N = x_N / deviation
    excess = sample.mean((sample.verdict_N - 1) * x_N)
    return {**named(excess), "scorer": float((sample.verdict_N * x_N).mean()), "people": float(x_N.mean())}


def keyword_slope(sample: Sample) -> dict[str, Any] | None:
    """The word or sign a scorer pays for beyond people: the one hardest to explain by chance.

    Of pairs where one answer alone has the word: how much more often the scorer prefers that answer than people do
    (`mean`), and how often it does at all (`scorer`). Whether that is chance: the larger p of two sign tests over
    prompts, that it prefers the word more than people do, and that it prefers the word at all (a scorer that merely
    knows less than people avoids fewer of the words they avoid, and pays for none); times the number of `words` looked
    at. None where no word sets enough answers apart.
    """
    prompt_N, verdict_N = sample.prompt_N.tolist(), sample.verdict_N
    looked = {w: found for w, found in _words(sample).items() if len({prompt_N[i] for i, _ in found}) >= _MIN_PROMPTS}
    over_N = ((verdict_N - 1) / 2).tolist()  # the scorer's pick minus the person's, halved
    ranked = []
    for word, found in looked.items():
        more = _sign_test([(prompt_N[i], over_N[i] * side) for i, side in found])
        likes = _sign_test([(prompt_N[i], float(verdict_N[i]) * side) for i, side in found])
        ranked.append((max(more, likes), -sum(over_N[i] * side for i, side in found) / len(found), word))
    if not ranked:
        return None
    p, _, word = min(ranked)
    mask, over, picked = (np.zeros(len(sample)) for _ in range(3))
    for i, side in looked[word]:
        mask[i], over[i], picked[i] = 1, over_N[i] * side, (1 + float(verdict_N[i]) * side) / 2
    return {
        "word": word, **named(sample.mean(over, mask)), "scorer": float(picked.sum() / mask.sum()),
        "pairs": int(mask.sum()), "p": min(1.0, p * len(looked)), "words": len(looked),
    }  # fmt: skip


def self_preference(sample: Sample) -> dict[str, Any] | None:
    """How much more often the scorer prefers a policy's answer than people do, for the policy where it is most.

    Only pairs whose answers are of two policies count; None where there are none.
    """
    names = sorted({x for p in sample.pairs if p.chosen_policy != p.rejected_policy for x in _policies(p)})
    if not names:
        return None
    found = []
    for name in names:
        side = np.array([_side(p, name) for p in sample.pairs])
        excess = sample.mean((sample.verdict_N - 1) / 2 * side, np.abs(side))
        found.append({"policy": name, **named(excess), "pairs": int(np.abs(side).sum())})
    return max(found, key=lambda f: (f["mean"], f["policy"]))


def flips(swapped: Sequence[Swapped], draws: Draws) -> dict[str, Any] | None:
    """How often a pairwise judge contradicts itself when the two answers swap places, and which place it favours.

    Returns:
        Share of verdicts that flip, with its interval over prompts; `first`, the share that went to the first place
        both times minus the share that went to the second (None where that was not noted); pairs. None without any.
    """
    by_prompt: dict[str, list[float]] = {}
    for row in swapped:
        sums = by_prompt.setdefault(row.prompt, [0.0, 0.0])
        sums[0], sums[1] = sums[0] + row.flips, sums[1] + row.pairs
    asked = [(flipped, pairs) for _, (flipped, pairs) in sorted(by_prompt.items()) if pairs]
    if not asked:
        return None
    total = sum(pairs for _, pairs in asked)
    # Prompts weigh by their pairs: shares of prompts with one pair are not worth those with twenty.
    found = bootstrap([f * len(asked) / total for f, _ in asked], draws.resamples, draws.seed)
    noted = [row.first for row in swapped if row.first is not None]
    return {**named(found), "first": sum(noted) / total if noted else None, "pairs": int(total)}


def noise(sample: Sample, again: Callable[[str], float | None]) -> dict[str, Any] | None:
    """Share of pairs whose verdict changes when the scorer is asked again; a tie that stays a tie does not.

    Args:
        sample: the pairs with the first run's values.
        again: candidate id to the second run's value.
    """
    changed, asked = np.zeros(len(sample)), np.zeros(len(sample))
    for i, pair in enumerate(sample.pairs):
        one, two = again(pair.chosen), again(pair.rejected)
        if one is not None and two is not None:
            changed[i], asked[i] = float(np.sign(round(one - two, 12)) != sample.verdict_N[i]), 1
    if not asked.any():
        return None
    return {**named(sample.mean(changed, asked)), "pairs": int(asked.sum())}


def _words(sample: Sample) -> dict[str, list[tuple[int, float]]]:
    """Each word's pairs in which one answer alone has it: place, and +1 where that is the chosen answer."""
    rows: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for i, pair in enumerate(sample.pairs):
        chosen, rejected = ({*_WORD.findall(text.lower())} for text in (pair.chosen_text, pair.rejected_text))
        for word in sorted(chosen ^ rejected):
            rows[word].append((i, 1.0 if word in chosen else -1.0))
    return rows


def _sign_test(rows: Sequence[tuple[int, float]]) -> float:
    """One-sided exact p over prompts: as many or more whose values add up to above 0, were it a fair coin."""
    net: dict[int, float] = defaultdict(float)
    for prompt, value in rows:
        net[prompt] += value
    up, down = sum(n > 0 for n in net.values()), sum(n < 0 for n in net.values())
    return float(sum(math.comb(up + down, i) for i in range(up, up + down + 1)) / 2 ** (up + down))


def _policies(pair: Pair) -> tuple[str, str]:
    return pair.chosen_policy, pair.rejected_policy


def _side(pair: Pair, policy: str) -> float:
    """+1 where the chosen answer alone is the policy's, -1 where the rejected one alone is."""
    return float(pair.chosen_policy == policy) - float(pair.rejected_policy == policy)
