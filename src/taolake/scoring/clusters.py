"""What free-text answers mean: clusters of one prompt's answers by their embeddings.

Complete-link agglomeration: any two answers of a cluster are as similar as asked. Single link would chain, so that two
answers that contradict each other could meet through a vague third. Works on unit vectors that others made; shares and
entropy of the keys are `taolake.scoring.agreement`'s.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from taolake.ids import content_hash

_DIGITS = 5  # cosines of one pair differ by about 1e-6 between batches and devices


def clusters(vectors: NDArray[np.floating], similarity: float) -> list[int]:
    """Number the cluster of each row, from 0 in the order of first rows.

    Args:
        vectors: (n, width), rows of length 1. Ties are broken by the order of rows: sort them by something stable.
        similarity: two rows of a cluster have at least this cosine.
    """
    n = len(vectors)
    if n < 2:
        return [0] * n
    from scipy.cluster.hierarchy import fcluster, linkage

    wide = np.asarray(vectors, dtype=np.float64)
    cosine = (wide @ wide.T)[np.triu_indices(n, 1)]
    # Rounded so that the noise of a batch neither breaks a tie nor moves a pair over the limit.
    distance = np.round(np.clip(1 - cosine, 0, 2), _DIGITS)
    labels = fcluster(linkage(distance, "complete"), round(1 - similarity, _DIGITS), criterion="distance")
    numbers: dict[int, int] = {}
    return [numbers.setdefault(int(label), len(numbers)) for label in labels]


def answer_keys(
    prompt: str, members: Sequence[str], vectors: Mapping[str, NDArray[np.floating]], similarity: float
) -> list[str | None]:
    """Say what each candidate of a prompt means: a hash of the prompt and of who is in its cluster.

    The same group gives the same keys in whatever order it comes; keys of two prompts are never equal.

    Args:
        prompt: prompt id.
        members: candidate ids of the whole group, each once.
        vectors: unit vector of each candidate that has an answer; the others get None.
        similarity: cosine above which two answers mean the same.
    """
    known = sorted(member for member in members if member in vectors)
    if not known:
        return [None] * len(members)
    labels = clusters(np.stack([vectors[member] for member in known]), similarity)
    inside: dict[int, list[str]] = {}
    for member, label in zip(known, labels, strict=True):
        inside.setdefault(label, []).append(member)
    keys = {label: content_hash("cluster", prompt, those) for label, those in inside.items()}
    key_of = {member: keys[label] for member, label in zip(known, labels, strict=True)}
    return [key_of.get(member) for member in members]
