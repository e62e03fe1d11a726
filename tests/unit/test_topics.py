"""Topics of questions: centres that do not depend on order or on an encoder's last digits."""

import numpy as np

from taolake.curation.topics import Vectors, centres, nearest


def points(seed: int = 1) -> Vectors:
    """Three directions, twenty points about each."""
    rng = np.random.default_rng(seed)
    made: Vectors = (np.repeat(np.eye(3), 20, axis=0) + rng.normal(0, 0.05, (60, 3))).astype(np.float32)
    return made


def test_what_lies_together_is_one_topic_in_any_order() -> None:
    rows = points()
    found = centres(rows, 3, 7)
    told = nearest(rows, found)
    assert [len(set(told[i : i + 20])) for i in (0, 20, 40)] == [1, 1, 1] and len(set(told)) == 3
    order = np.random.default_rng(2).permutation(60)
    again = centres(rows[order] + 1e-6, 3, 7)
    assert nearest(rows, again) == told
    assert [nearest(rows[i : i + 1], found)[0] for i in range(60)] == told


def test_fewer_questions_than_topics() -> None:
    rows = points()[:2]
    assert nearest(rows, centres(rows, 5, 7)) in ([0, 1], [1, 0])
    assert len(centres(np.repeat(rows[:1], 9, axis=0), 5, 7)) == 1
