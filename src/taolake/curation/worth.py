"""Which training prompts a round takes when it cannot take all: the most worth having, by quotas.

A prompt's worth is a weighted mean of what is known: how difficult it was, how unsure its answers were, how different
it is from those taken before. Not here: where these come from (`taolake.stages.curate`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from taolake import ids


@dataclass(frozen=True)
class Prompt:
    """What is known of a prompt when it is chosen.

    Attributes:
        good: share of its answers that were good, 0 to 1; None: nothing was seen yet.
        topic: number of what it is about; None: not looked at.
    """

    prompt_id: str
    cluster: str
    tag: str | None = None
    good: float | None = None
    topic: int | None = None


def choose(
    prompts: Iterable[Prompt],
    limit: int,
    quotas: Mapping[str, float],
    weights: Mapping[str, float],
    largest: float | None = None,
) -> list[str]:
    """Ids of the prompts taken, best first.

    Equal worth is drawn by the prompt's own hash. A quota is a largest share of `limit`; `other` is what has no tag.

    Args:
        prompts: the candidates.
        limit: how many at most.
        quotas: largest share by tag; a tag that is not named has none.
        weights: of difficulty, diversity and uncertainty.
        largest: share of `limit` that one topic may have; None: any.
    """
    room = {tag: int(share * limit) for tag, share in quotas.items()}
    of_topic, most = Counter[int | None](), limit if largest is None else max(1, int(largest * limit))
    taken: list[str] = []
    for _, _, prompt in sorted(_ranked(list(prompts), weights), key=lambda each: (*each[:2], each[2].prompt_id)):
        if len(taken) == limit:
            break
        tag, topic = prompt.tag or "other", prompt.topic
        if room.get(tag, 1) > 0 and (topic is None or of_topic[topic] < most):
            room[tag] = room.get(tag, limit + 1) - 1
            of_topic[topic] += 1
            taken.append(prompt.prompt_id)
    return taken


def _ranked(prompts: Sequence[Prompt], weights: Mapping[str, float]) -> Iterable[tuple[float, float, Prompt]]:
    """(minus worth, draw, prompt). A cluster's second prompt brings half as much new as its first, then a third.

    Where topics are known a topic's second prompt does so too, and the two are averaged.
    """
    of_cluster, of_topic = Counter[str](), Counter[int]()
    total = sum(weights.values()) or 1.0
    for prompt in sorted(prompts, key=lambda p: (-_known(p, weights), _draw(p))):
        of_cluster[prompt.cluster] += 1
        new = 1 / of_cluster[prompt.cluster]
        if prompt.topic is not None:
            of_topic[prompt.topic] += 1
            new = (new + 1 / of_topic[prompt.topic]) / 2
        yield -(_known(prompt, weights) + weights.get("diversity", 0.0) * new) / total, _draw(prompt), prompt


def _known(prompt: Prompt, weights: Mapping[str, float]) -> float:
    """Difficulty and uncertainty; a prompt of which nothing is known counts as half of both."""
    good = 0.5 if prompt.good is None else min(1.0, max(0.0, prompt.good))
    unsure = 0.5 if prompt.good is None else 4 * good * (1 - good)
    return weights.get("difficulty", 0.0) * (1 - good) + weights.get("uncertainty", 0.0) * unsure


def _draw(prompt: Prompt) -> float:
    return ids.unit_interval("choose", prompt.prompt_id)
