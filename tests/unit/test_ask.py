"""Choosing what to ask: uncertainty by hand, planted repeats and easy groups avoided, coverage against chance."""

import math
import random
import time

import numpy as np
import pytest

from taolake.selection.ask import Option, bag_of_words, choose_answers, choose_groups, uncertainty

LOG = math.log


def option(
    name: str, meaning: str | None = None, reward: float | None = None, count: int = 1, **scores: float
) -> Option:
    return Option(name, f"text of {name}", meaning, reward, scores, count)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ([], 0.0),
        ([option("a")], 0.0),
        ([option("a", "x", 0.1), option("b", "x", 0.9)], 0.0),  # one meaning: nothing to choose between
        ([option("a", "x"), option("b", "y")], 1.0),  # entropy alone
        ([option("a", "x", count=3), option("b", "y")], (LOG(4) - 0.75 * LOG(3)) / LOG(4)),
        ([option("a", "x", 0.9), option("b", "y", 0.6)], (1 + 0.7) / 2),
        # The two best of different meanings, not the two best.
        ([option("a", "x", 0.9), option("b", "x", 0.85), option("c", "y", 0.4)],
         ((LOG(3) - 2 / 3 * LOG(2)) / LOG(3) + 0.5) / 2),
        ([option("a", "x", 0.5, u=1, v=0), option("b", "y", 0.5, u=0, v=1)], 1.0),
        ([option("a", "x", 0.5, u=1, v=0), option("b", "y", 0.5, u=0, v=-7)], 2 / 3),
        ([option("a", "x", 0.5, u=1, v=1), option("b", "y", 0.5, u=1, v=0)], 1.0),  # a tie orders nothing
        ([option("a", "x", 0.5, u=1), option("b", "y", 0.5, v=0)], 1.0),
    ],
)  # fmt: skip
def test_uncertainty(options: list[Option], wanted: float) -> None:
    assert uncertainty(options) == pytest.approx(wanted, abs=1e-12)
    assert uncertainty(options[::-1]) == uncertainty(options)


def test_without_a_meaning_the_words_are_it() -> None:
    same = [Option("a", "The  answer"), Option("b", "the answer\n"), Option("c", "THE ANSWER")]
    assert uncertainty(same) == 0.0
    assert uncertainty([*same, Option("d", "another")]) > 0


def pool(seed: int) -> tuple[list[str], list[float], np.ndarray, list[int]]:
    """40 topics; each has one open group, four repeats of it and five easy groups near by, 400 groups in all."""
    rng = np.random.default_rng(seed)
    names, weights, rows, topics = [], [], [], []
    for topic in range(40):
        centre = rng.normal(size=32)
        for i in range(10):
            row = centre + (0.0 if i < 5 else 0.3) * rng.normal(size=32)
            names.append(f"{'open' if i < 5 else 'easy'}-{topic}-{i}")
            weights.append(0.6 if i < 5 else 0.02)
            rows.append(row / np.linalg.norm(row))
            topics.append(topic)
    return names, weights, np.array(rows), topics


@pytest.mark.parametrize("seed", range(5))
def test_picks_avoid_repeats_and_easy_groups(seed: int) -> None:
    names, weights, rows, topics = pool(seed)
    picked = choose_groups(names, weights, rows, 40, seed)
    assert len(picked) == 40
    assert all(names[i].startswith("open") for i in picked)
    assert sorted(topics[i] for i in picked) == list(range(40))  # each topic once
    drawn = random.Random(seed).sample(range(400), 40)
    assert len({topics[i] for i in drawn}) < 32
    assert sum(names[i].startswith("open") for i in drawn) < 30


def test_what_was_asked_before_is_not_asked_again() -> None:
    names, weights, rows, topics = pool(0)
    before = choose_groups(names, weights, rows, 25, 0)
    after = choose_groups(names, weights, rows, 15, 0, asked=rows[before])
    assert sorted(topics[i] for i in [*before, *after]) == list(range(40))


def test_picks_belong_to_the_groups_and_the_seed() -> None:
    names, weights, rows, _ = pool(1)
    picked = [names[i] for i in choose_groups(names, weights, rows, 12, 7)]
    order = np.random.default_rng(0).permutation(len(names))
    shuffled = [names[i] for i in order]
    again = choose_groups(shuffled, [weights[i] for i in order], rows[order], 12, 7)
    assert [shuffled[i] for i in again] == picked
    assert [names[i] for i in choose_groups(names, weights, rows, 12, 8)] != picked


def test_nothing_worth_asking_is_not_asked() -> None:
    rows = np.eye(3)
    assert choose_groups(["a", "b", "c"], [0.0, 0.5, 0.0], rows, 3, 0) == [1]
    assert choose_groups(["a", "b"], [0.5, 0.5], rows[[0, 0]], 2, 0) in ([0], [1])
    assert choose_groups(["a", "b"], [0.5, 0.5], -rows[:2], 2, 0, asked=rows) in ([0, 1], [1, 0])
    assert choose_groups([], [], np.zeros((0, 3)), 5, 0) == []
    assert choose_groups(["a"], [1.0], rows[:1], 0, 0) == []


def test_an_uncertain_group_outweighs_a_distant_easy_one() -> None:
    rows = np.array([[1, 0], [math.cos(math.radians(60)), math.sin(math.radians(60))], [0, 1]])
    assert choose_groups(["a", "b", "c"], [0.9, 0.8, 0.3], rows, 2, 0) == [0, 1]  # 0.8 * 0.5 against 0.3 * 1


def test_a_large_pool_is_quick() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5000, 384)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    started = time.process_time()
    picked = choose_groups([str(i) for i in range(5000)], rng.random(5000).tolist(), rows, 100, 0)
    assert len(set(picked)) == 100
    assert time.process_time() - started < 20


REWARDS = [0.9, 0.88, 0.5, 0.48, 0.1, 0.12, 0.3]


@pytest.mark.parametrize(
    ("k", "wanted"),
    [(0, []), (1, [0.9]), (2, [0.9, 0.1]), (3, [0.9, 0.1, 0.5]), (4, [0.9, 0.1, 0.5, 0.3]), (9, sorted(REWARDS))],
)
def test_answers_are_spread_over_the_reward(k: int, wanted: list[float]) -> None:
    options = [option(f"c{i}", f"m{i}", r) for i, r in enumerate(REWARDS)]
    got = [o.reward for o in choose_answers(options, k, 0)]
    assert (sorted(r for r in got if r is not None) if k == 9 else got) == wanted


def test_answers_differ_in_meaning_and_the_best_speaks_for_each() -> None:
    options = [option("a", "x", 0.2), option("b", "x", 0.8), option("c", "y", 0.5), option("d", "y"), option("e", "z")]
    assert [o.candidate_id for o in choose_answers(options, 4, 0)] == ["b", "c", "e"]
    assert [o.candidate_id for o in choose_answers(options, 2, 0)] == ["b", "c"]
    tie = [Option("long", "a long text", "x", 0.5), Option("short", "a text", "x", 0.5)]
    assert [o.candidate_id for o in choose_answers(tie, 4, 0)] == ["short"]


def test_answers_without_rewards_are_drawn_by_the_seed() -> None:
    options = [option(f"c{i}", f"m{i}") for i in range(12)]
    draws = {tuple(o.candidate_id for o in choose_answers(options, 4, seed)) for seed in range(8)}
    assert len(draws) > 4
    assert choose_answers(options, 4, 3) == choose_answers(options[::-1], 4, 3)


def test_bags_of_words() -> None:
    rows = bag_of_words(["How do I reset my password?", "my PASSWORD reset, how do I", "Penguins eat fish", "?!"])
    assert rows.shape == (4, 1024) and rows.dtype == np.float32
    cosine = rows @ rows.T
    assert cosine[0, 1] == pytest.approx(1.0) and cosine[0, 2] == 0 and not rows[3].any()
    common = bag_of_words(["the cat", "the dog", "the cow", "a cat"])
    assert common[0] @ common[3] > common[0] @ common[1]  # a rare word in common says more
