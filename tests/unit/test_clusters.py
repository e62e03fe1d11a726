"""Semantic clusters: exact partitions, in any order, and keys that belong to a group."""

import itertools
import math

import numpy as np
import pytest

from taolake.scoring.agreement import agreement, entropy
from taolake.scoring.clusters import answer_keys, clusters


def at(*degrees: float) -> np.ndarray:
    """Unit vectors of the plane; the cosine of two is that of the angle between them."""
    return np.array([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees], dtype=np.float32)


COS_30 = math.cos(math.radians(30))


@pytest.mark.parametrize(
    ("degrees", "similarity", "wanted"),
    [
        ([], 0.9, []),
        ([10], 0.9, [0]),
        ([0, 0, 0], 1.0, [0, 0, 0]),
        ([0, 90, 0], 0.9, [0, 1, 0]),
        ([0, 180], 0.0, [0, 1]),
        ([0, 30], COS_30, [0, 0]),  # exactly as similar as asked is similar
        ([0, 30.1], COS_30, [0, 1]),
        ([0, 20, 40], COS_30, [0, 0, 1]),  # 0 and 40 do not meet through 20
        ([0, 100, 5, 105, 200], 0.99, [0, 1, 0, 1, 2]),
    ],
)
def test_partition(degrees: list[float], similarity: float, wanted: list[int]) -> None:
    assert clusters(at(*degrees) if degrees else np.zeros((0, 2)), similarity) == wanted


def test_every_pair_of_a_cluster_is_as_similar_as_asked() -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(60, 4))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels = clusters(rows, 0.6)
    pairs = [(i, j) for i, j in itertools.combinations(range(60), 2) if labels[i] == labels[j]]
    assert len(pairs) > 20 and len(set(labels)) > 5
    assert min(rows[i] @ rows[j] for i, j in pairs) >= 0.6 - 1e-5


def test_order_does_not_count_even_with_ties() -> None:
    """Five answers a third of a turn apart in chains: each could join either neighbour."""
    vectors = dict(zip("abcde", at(0, 20, 40, 60, 80), strict=True))
    seen = {
        tuple(sorted(zip(order, answer_keys("p", order, vectors, COS_30), strict=True)))
        for order in itertools.permutations("abcde")
    }
    assert len(seen) == 1


def test_noise_of_a_batch_changes_no_key() -> None:
    rows = at(0, 20, 40, 60, 80)
    noisy = rows + np.float32(1e-7) * np.random.default_rng(0).normal(size=rows.shape).astype(np.float32)
    keys = [answer_keys("p", list("abcde"), dict(zip("abcde", v, strict=True)), COS_30) for v in (rows, noisy)]
    assert keys[0] == keys[1]


def test_keys_are_of_the_group_and_the_prompt() -> None:
    vectors = dict(zip("abcd", at(0, 1, 90, 91), strict=True))
    first = answer_keys("p", list("abcd"), vectors, 0.9)
    assert first[0] == first[1] != first[2] == first[3]
    assert answer_keys("p", list("abc"), vectors, 0.9)[:2] == first[:2]  # who is in it makes the key
    assert answer_keys("p", list("abc"), vectors, 0.9)[2] != first[2]
    assert not set(answer_keys("q", list("abcd"), vectors, 0.9)) & set(first)


def test_shares_and_entropy_of_a_group_with_a_missing_answer() -> None:
    vectors = dict(zip("abc", at(0, 2, 90), strict=True))
    keys = answer_keys("p", ["x", "a", "b", "c"], vectors, 0.9)
    assert keys[0] is None
    assert agreement(keys) == [None, pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(1 / 3)]
    assert entropy(keys) == pytest.approx(math.log(3) - 2 / 3 * math.log(2))
    assert answer_keys("p", ["x", "y"], {}, 0.9) == [None, None]
