"""Texts that say nearly the same: shingles, MinHash signatures in bands, the exact similarity, connected clusters.

A text is the set of its runs of five characters. Two texts are as alike as the share of runs they have in common
(Jaccard). Signatures of up to 125 minima lie in bands, as long as the similarity that counts allows: at 0.8 these are
20 bands of 6, which find such a pair with 99.8 %, one of 0.3 with 1.4 %, one of 0.1 with 0.002 %. Not here: Spark
(`taolake.stages.alike`). Source of the method: Broder, "On the resemblance and containment of documents", 1997.
"""

import functools
import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

HASHES = 125
NEIGHBOURS = 3  # in a bucket a text is held against so many that follow it, so that a large bucket costs no more
_SHINGLE = 5
_SPACE = re.compile(r"\W+")
_DRAW = np.random.Generator(np.random.PCG64(20_260_801))  # part of every signature: another seed is another signature
_TIMES = _DRAW.integers(1, 2**32, (HASHES, 1), dtype=np.uint32) | np.uint32(1)
_PLUS = _DRAW.integers(0, 2**32, (HASHES, 1), dtype=np.uint32)
_POWERS = np.array([1_000_003**i % 2**64 for i in range(_SHINGLE)], dtype=np.uint64)
_MIX = np.uint64(0x9E3779B97F4A7C15)


def shingles(text: str) -> Hashes:
    """Hashes of the runs of five characters, each once and ascending; case, signs and spaces are folded."""
    folded = _SPACE.sub(" ", text.casefold()).strip()
    codes = np.frombuffer(folded.ljust(_SHINGLE).encode("utf-32-le", "replace"), dtype=np.uint32).astype(np.uint64)
    runs = np.lib.stride_tricks.sliding_window_view(codes, _SHINGLE) @ _POWERS
    runs = (runs ^ (runs >> np.uint64(29))) * _MIX
    return np.unique(runs ^ (runs >> np.uint64(32)))


@functools.cache
def rows(similarity: float) -> int:
    """Minima in a band: as many as still find a pair so similar with 99.5 %.

    Fewer would bring strangers together, whose pairs grow with the square of the texts.
    """

    def found(rows: int) -> float:
        return 1 - float((1 - similarity**rows) ** (HASHES // rows))

    return max(rows for rows in range(1, HASHES // 5 + 1) if found(rows) >= 0.995)


def bands(text: str, rows: int) -> Ints:
    """One number for each band of the text's signature; texts that share one of them are worth a look."""
    count = HASHES // rows
    # 32 bits: half the memory to go through, and minima need no more.
    hashed = shingles(text).astype(np.uint32) * _TIMES[: count * rows]
    hashed += _PLUS[: count * rows]
    smallest = hashed.min(axis=1).reshape(count, rows).astype(np.uint64)
    mixed = np.arange(1, count + 1, dtype=np.uint64) * _MIX
    for row in range(rows):
        mixed = (mixed ^ smallest[:, row]) * _MIX
        mixed ^= mixed >> np.uint64(31)
    return mixed.view(np.int64)


def similarity(one: Hashes, other: Hashes) -> float:
    """Share of common shingles, 0 to 1."""
    common = np.intersect1d(one, other, assume_unique=True).size
    return float(common / (one.size + other.size - common))


def neighbours(buckets: Ints, members: Ints) -> tuple[Ints, Ints]:
    """Pairs of members of one bucket that stand near each other; equal buckets must stand together.

    Of a bucket with more than `NEIGHBOURS` + 1 members not every pair is given; a chain of pairs holds it together.
    """
    left, right = [], []
    for step in range(1, NEIGHBOURS + 1):
        together = np.flatnonzero(buckets[:-step] == buckets[step:])
        left.append(members[together])
        right.append(members[together + step])
    one, other = np.concatenate(left), np.concatenate(right)
    return np.minimum(one, other), np.maximum(one, other)


def connected(pairs: Iterable[tuple[int, int]] | npt.NDArray[np.int64]) -> dict[int, int]:
    """Cluster of every member that is in a pair, named by the cluster's smallest member."""
    edges = np.asarray(pairs if isinstance(pairs, np.ndarray) else list(pairs), dtype=np.int64).reshape(-1, 2)
    if not edges.size:
        return {}
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    members, places = np.unique(edges, return_inverse=True)
    places = places.reshape(-1, 2)
    graph = coo_array((np.ones(len(edges), np.int8), (places[:, 0], places[:, 1])), shape=(members.size,) * 2)
    _, labels = connected_components(graph, directed=False)
    first = np.full(labels.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, labels, members)
    return dict(zip(members.tolist(), first[labels].tolist(), strict=True))


def side(known: Sequence[str], given: Sequence[str]) -> str | None:
    """Side of the split a cluster is on already: what was decided before, else what its sources say; None: open.

    Args:
        known: splits of its prompts that were decided in earlier runs.
        given: splits that sources name for its new prompts. A cluster goes to the strictest of them: what is measured
            on or shown to people must not be trained on.

    Returns:
        A split, `both` where earlier prompts lie on both sides, or None.
    """
    before = {"train" if split == "spare" else split for split in known}
    if len(before) > 1:
        return "both"
    strict = [split for split in ("holdout", "review", "train") if split in (before or given)]
    return strict[0] if strict else None
