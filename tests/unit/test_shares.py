"""Strategies share further answers by what they won: counts against enumeration, shares, and turns."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest

from taolake.selection.shares import Won, shares, turns, won

SET = {"plain": 0.5, "plan": 0.25, "json": 0.25}
PLAIN = {"plain"}


def by_hand(values: Mapping[str, Sequence[float]], plain: set[str]) -> dict[str, Won]:
    """Every answer against all of the plain ones, itself left out."""
    ours = [(name, i, v) for name in plain for i, v in enumerate(values.get(name, ()))]
    found = {}
    for name, theirs in values.items():
        against = [[v for n, j, v in ours if (n, j) != (name, i)] for i in range(len(theirs))]
        if theirs and all(against) and set(values) - plain:
            found[name] = Won(sum(v > max(a) for v, a in zip(theirs, against, strict=True)), len(theirs))
    return found


@pytest.mark.parametrize("seed", range(60))
def test_wins_against_enumeration(seed: int) -> None:
    rng = random.Random(seed)
    graded, plain = rng.random() < 0.5, {"plain", "plain2"} if seed % 2 else PLAIN
    names = [*plain, "plan", "json"]
    values = {
        name: [rng.random() if graded else float(rng.random() < 0.3) for _ in range(rng.randint(0, 5))]
        for name in rng.sample(names, rng.randint(1, len(names)))
    }
    values = {name: each for name, each in values.items() if each}
    assert won([values], plain) == by_hand(values, plain)


def test_prompts_add_up_and_easy_ones_without_exploring_answers_tell_nothing() -> None:
    prompts = [
        {"plain": [0.0, 0.0, 0.0, 0.0], "plan": [1.0, 0.0]},  # a winner that the plain prompt did not have
        {"plain": [1.0, 0.0], "plan": [1.0], "json": [1.0]},  # it had one, by one answer
        {"plain": [1.0, 0.0, 0.0, 0.0]},
        {"plan": [1.0]},  # nothing to hold it against
    ]
    assert won(prompts, PLAIN) == {"plain": (1, 6), "plan": (1, 3), "json": (0, 1)}


def test_shares_follow_what_was_won_and_the_plain_one_keeps_its_own() -> None:
    now = shares(SET, {"plain": Won(10, 1000), "plan": Won(90, 500), "json": Won(10, 500)}, PLAIN)
    assert sum(now.values()) == pytest.approx(1) and now["plain"] == 0.5
    mean = 110 / 2000
    assert now["plan"] / now["json"] == pytest.approx((90 + 50 * mean) / (10 + 50 * mean))
    idle = shares(SET, {"plain": Won(50, 1000), "plan": Won(0, 500), "json": Won(0, 500)}, PLAIN)
    assert idle["plain"] > 0.9 and idle["plan"] == idle["json"] > 0, "what exploring does not win goes to the plain one"


def test_shares_stay_as_set_where_nothing_tells_them_apart() -> None:
    assert shares(SET, {}, PLAIN) == SET == shares(SET, {"plan": Won(0, 900)}, PLAIN)
    same = shares(SET, {name: Won(30, 300) for name in SET}, PLAIN)
    assert same == pytest.approx(SET)
    few = shares(SET, {"plain": Won(0, 4), "plan": Won(1, 1), "json": Won(0, 1)}, PLAIN)
    assert few == pytest.approx(SET, abs=0.15), "one win among few answers moves little"
    assert shares({"plain": 1.0}, {"plain": Won(3, 9)}, PLAIN) == {"plain": 1.0}
    none = shares({"plain": 1.0, "plan": 0.0}, {"plain": Won(1, 9), "plan": Won(1, 1)}, PLAIN)
    assert none == {"plain": 1.0, "plan": 0.0}, "a strategy without a share stays without"


def test_turns_follow_the_shares_after_the_probe() -> None:
    share = {"plan": 0.25, "plain": 0.75}
    assert turns({}, 4, share, "plain", 4) == {"plain": 4}
    assert turns({}, 2, share, "plain", 4) == {"plain": 2} and turns({"plain": 2}, 3, share, "plain", 4)["plan"] == 1
    had: Counter[str] = Counter()
    for _ in range(16):
        had += turns(had, 4, share, "plain", 4)
    assert had == {"plain": 48, "plan": 16}
    assert turns(had, 8, {"plan": 1.0, "plain": 0.0}, "plain", 4) == {"plan": 8}, "shares may change between waves"


def test_better_strategies_find_more_for_the_same_answers() -> None:
    """Prompts whose one in three only a plan solves; two strategies that never help."""

    def found(learn: bool) -> float:
        rng, set_ = random.Random(5), {"plain": 0.4, "json": 0.2, "plan": 0.2, "poem": 0.2}
        kinds = [rng.choice(["easy", "plan", "hopeless"]) for _ in range(300)]
        had = [Counter[str]() for _ in kinds]
        seen: list[dict[str, list[float]]] = [{} for _ in kinds]
        for _ in range(4):
            now = shares(set_, won(seen, PLAIN), PLAIN) if learn else set_
            for kind, mine, values in zip(kinds, had, seen, strict=True):
                for name, count in turns(mine, 4, now, "plain", 4).items():
                    chance = {"easy": 0.5, "plan": 0.25 * (name == "plan"), "hopeless": 0.0}[kind]
                    values.setdefault(name, []).extend(float(rng.random() < chance) for _ in range(count))
                    mine[name] += count
        return sum(any(map(any, values.values())) for values in seen) / len(seen)

    assert found(True) > found(False) + 0.03
