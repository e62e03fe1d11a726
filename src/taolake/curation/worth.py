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
    """

    prompt_id: str
    cluster: str
    tag: str | None = None
    good: float | None = None


def tag_of(question: str, tags: Mapping[str, str]) -> str | None:
    """Name of the first pattern that the question holds."""
    import re

    return next((name for name, pattern in tags.items() if re.search(pattern, question, re.IGNORECASE)), None)


def choose(
    prompts: Iterable[Prompt], limit: int, quotas: Mapping[str, float], weights: Mapping[str, float]
) -> list[str]:
    """Ids of the prompts taken, best first.

    Equal worth is drawn by the prompt's own hash. A quota is a largest share of `limit`; `other` is what has no tag.

    Args:
        prompts: the candidates.
        limit: how many at most.
        quotas: largest share by tag; a tag that is not named has none.
        weights: of difficulty, diversity and uncertainty.
    """
    room = {tag: int(share * limit) for tag, share in quotas.items()}
    ranked = sorted(_ranked(list(prompts), weights))
    taken: list[str] = []
    for _, _, prompt_id, tag in ranked:
        if len(taken) == limit:
            break
        if room.get(tag, 1) > 0:
            room[tag] = room.get(tag, limit + 1) - 1
            taken.append(prompt_id)
    return taken


def _ranked(prompts: Sequence[Prompt], weights: Mapping[str, float]) -> Iterable[tuple[float, float, str, str]]:
    """(minus worth, draw, id, tag). A cluster's second prompt brings half as much new as its first, then a third."""
    seen: Counter[str] = Counter()
    total = sum(weights.values()) or 1.0
    for prompt in sorted(prompts, key=lambda p: (-_known(p, weights), _draw(p))):
        seen[prompt.cluster] += 1
        worth = _known(prompt, weights) + weights.get("diversity", 0.0) / seen[prompt.cluster]
        yield -worth / total, _draw(prompt), prompt.prompt_id, prompt.tag or "other"


def _known(prompt: Prompt, weights: Mapping[str, float]) -> float:
    """Difficulty and uncertainty; a prompt of which nothing is known counts as half of both."""
    good = 0.5 if prompt.good is None else min(1.0, max(0.0, prompt.good))
    unsure = 0.5 if prompt.good is None else 4 * good * (1 - good)
    return weights.get("difficulty", 0.0) * (1 - good) + weights.get("uncertainty", 0.0) * unsure


def _draw(prompt: Prompt) -> float:
    return ids.unit_interval("choose", prompt.prompt_id)
