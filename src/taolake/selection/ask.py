"""Which groups of answers to show to people, and which answers of each: those whose label would teach most.

A group's worth is its uncertainty times its distance from all that was asked already: greedy k-center over prompts,
with uncertainty as weight. Groups whose answers all mean the same are never asked. Works on vectors and rewards that
others made; `bag_of_words` stands in where no encoder is configured. Draws nothing: ties are broken by a hash of seed
and id.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from taolake.ids import unit_interval
from taolake.scoring.agreement import entropy

_SURE = 1e-9  # uncertainty below this is none
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Option:
    """One answer that could be shown.

    Attributes:
        candidate_id: its id.
        text: what it says.
        meaning: what it means, where a scorer knows; otherwise its words, case and spacing aside, are its meaning.
        reward: 0 to 1, where there is one.
        scores: scorer to value; they are compared within one scorer only, so their scales may differ.
        count: how often the model gave it.
    """

    candidate_id: str
    text: str
    meaning: str | None = None
    reward: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    count: int = 1

    @property
    def key(self) -> str:
        """What it means; equal keys are never shown together."""
        return self.meaning if self.meaning is not None else "text:" + " ".join(self.text.casefold().split())


def uncertainty(options: Sequence[Option]) -> float:
    """How much one prompt's answers leave open, 0 to 1: the mean of what is known of three signs.

    - closeness: 1 minus the distance between the two highest rewards of answers that differ in meaning;
    - disagreement: share of answer pairs that two scorers order in opposite ways, over the pairs both order;
    - entropy of meanings, weighed by how often each was given, over the logarithm of the number of answers given.

    0 where all answers mean the same.
    """
    best = _best_by_meaning(options)
    if len(best) < 2:
        return 0.0
    signs = [_entropy(options)]
    rewards = sorted((o.reward for o in best if o.reward is not None), reverse=True)
    if len(rewards) > 1:
        signs.append(max(0.0, 1 - (rewards[0] - rewards[1])))
    disagreement = _disagreement(best)
    if disagreement is not None:
        signs.append(disagreement)
    return sum(signs) / len(signs)


def choose_groups(
    names: Sequence[str],
    weights: Sequence[float],
    vectors: NDArray[np.floating],
    count: int,
    seed: int,
    asked: NDArray[np.floating] | None = None,
) -> list[int]:
    """Pick groups one by one, each the largest product of uncertainty and distance from all picked and asked so far.

    Args:
        names: a stable id of each group; ties are broken by it and the seed, never by the order of groups.
        weights: uncertainty of each, (n,); a group of weight 0 is never picked.
        vectors: (n, width), rows of length 1: where each prompt lies.
        count: how many to pick; fewer where no more are worth asking. Repeats of a picked prompt are not.
        seed: for ties.
        asked: (m, width), prompts that people labelled before.

    Returns:
        Positions, in the order of picking.
    """
    if not len(names):
        return []
    worth = np.asarray(weights, dtype=np.float64)
    rows = np.asarray(vectors, dtype=np.float64)
    distance = np.ones(len(rows))
    if asked is not None and len(asked):
        distance = np.minimum(distance, _distance((rows @ np.asarray(asked, dtype=np.float64).T).max(axis=1)))
    rank = np.array([unit_interval("ask", seed, name) for name in names])
    picked: list[int] = []
    while len(picked) < count:
        gain = np.round(worth * distance, 9)
        best = int(np.lexsort((rank, -gain))[0])
        if gain[best] <= _SURE:
            break
        picked.append(best)
        distance = np.minimum(distance, _distance(rows @ rows[best]))
        distance[best] = 0.0  # its own cosine may fall a hair short of 1
    return picked


def choose_answers(options: Sequence[Option], k: int, seed: int) -> list[Option]:
    """Pick at most k answers that differ in meaning: the best, then always the one farthest from all picked in reward.

    Each meaning is shown by its best-rewarded answer; answers without a reward come after the others.
    """
    left = sorted(_best_by_meaning(options), key=lambda o: unit_interval("answer", seed, o.candidate_id))
    left.sort(key=lambda o: -math.inf if o.reward is None else o.reward, reverse=True)  # stable: ties stay drawn
    picked, left = left[: min(k, 1)], left[1:]
    while left and len(picked) < k:
        known = [p.reward for p in picked if p.reward is not None]
        gaps = [-1.0 if o.reward is None else min((abs(o.reward - r) for r in known), default=0.0) for o in left]
        picked.append(left.pop(max(range(len(left)), key=lambda i: round(gaps[i], 9))))
    return picked


def bag_of_words(texts: Sequence[str], width: int = 1024) -> NDArray[np.float32]:
    """Hashed bags of words, (n, width), rows of length 1: rare words weigh more (log of inverse document frequency).

    The same words in another order are the same bag; a text without words is a row of zeros.
    """
    bags = [{int.from_bytes(blake2b(w.encode(), digest_size=8).digest()) % width for w in _words(t)} for t in texts]
    seen = np.zeros(width)
    for bag in bags:
        seen[list(bag)] += 1
    weight = np.log((1 + len(texts)) / (1 + seen)) + 1
    rows = np.zeros((len(texts), width), np.float32)
    for row, bag in zip(rows, bags, strict=True):
        at = list(bag)
        row[at] = weight[at] / max(float(np.linalg.norm(weight[at])), 1e-12)
    return rows


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _distance(cosine: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 minus cosine; opposite is no farther than unrelated."""
    return 1 - np.clip(cosine, 0, 1)


def _best_by_meaning(options: Sequence[Option]) -> list[Option]:
    """The best-rewarded answer of each meaning, by ascending id; ties go to the shorter text."""
    best: dict[str, Option] = {}
    for option in sorted(options, key=lambda o: (-1.0 if o.reward is None else o.reward, -len(o.text), o.candidate_id)):
        best[option.key] = option
    return sorted(best.values(), key=lambda o: o.candidate_id)


def _entropy(options: Sequence[Option]) -> float:
    given = [option.key for option in options for _ in range(option.count)]
    return entropy(given) / math.log(len(given))


def _disagreement(options: Sequence[Option]) -> float | None:
    """None where no two scorers order a pair both."""
    opposed, both = 0, 0
    names = sorted({name for option in options for name in option.scores})
    for one, other in itertools.combinations(options, 2):
        shared = [name for name in names if name in one.scores and name in other.scores]
        signs = [(one.scores[n] > other.scores[n]) - (one.scores[n] < other.scores[n]) for n in shared]
        up, down = signs.count(1), signs.count(-1)
        opposed += up * down
        both += math.comb(up + down, 2)
    return opposed / both if both else None
