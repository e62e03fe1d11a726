"""Trip wires: what trips, what an unlucky draw must not trip, which look is kept and when training stops."""

import random
from typing import Any

import pytest

from taolake.config import Brakes
from taolake.trust.brakes import (
    BrakeError,
    agreement,
    best,
    repetition,
    should_stop,
    summary,
    top_share,
    tripped,
    wires,
)
from taolake.trust.curve import kl_of_best_of
from taolake.trust.sample import Draws

SPEC = Brakes()
DRAWS = Draws(500, 0)
N = 60


def look(**changes: Any) -> dict[str, list[float | None]]:
    """A look at a policy that is the base, with some measures replaced by one number for all prompts."""
    rng = random.Random(1)
    even = {"entropy": 1.5, "length": 20.0, "truncated": 0.0, "repetition": 0.02, "kl": 0.1}
    found: dict[str, list[float | None]] = {k: [v + rng.gauss(0, v / 10) for _ in range(N)] for k, v in even.items()}
    found |= {"held": [float(i % 2) for i in range(N)], "correlation": [0.5] * N, "top_answer": [0.01] * N}
    found |= {"reward": [0.5] * N, "canary": [1.0] * 40}
    return found | {name: [value] * N for name, value in changes.items()}


def names(base: Any, now: Any, looks: int = 1) -> set[str]:
    return {wire.name for wire in wires(base, now, SPEC, 8, DRAWS, looks) if wire.tripped}


def test_the_base_trips_nothing() -> None:
    found = wires(look(), look(), SPEC, 8, DRAWS)
    assert {wire.name for wire in found} == {
        "kl", "entropy", "truncated", "repetition", "top_answer", "held", "correlation", "canary", "length",
    }  # fmt: skip
    assert not any(wire.tripped for wire in found)


@pytest.mark.parametrize(
    ("change", "tripped"),
    [
        ({"kl": kl_of_best_of(8) + 0.01}, {"kl"}),
        ({"kl": kl_of_best_of(8) - 0.01}, set()),
        ({"entropy": 0.85}, {"entropy"}),
        ({"entropy": 1.0}, set()),
        ({"length": 31.0}, {"length"}),
        ({"length": 9.0}, {"length"}),
        ({"length": 28.0}, set()),
        ({"truncated": 0.05}, {"truncated"}),
        ({"repetition": 0.2}, {"repetition"}),
        ({"repetition": 0.06}, set()),
        ({"top_answer": 0.3}, {"top_answer"}),
        ({"held": 0.0}, {"held"}),
        ({"held": 0.5}, set()),
        ({"correlation": 0.2}, {"correlation"}),
        ({"correlation": 0.4}, set()),
        ({"held": 1.0, "length": 35.0}, set()),  # longer because better
        ({"canary": 0.0}, {"canary"}),
    ],
)
def test_each_wire(change: dict[str, float], tripped: set[str]) -> None:
    now = look(**change)
    now["canary"] = now["canary"][:40]
    assert names(look(), now) == tripped


def test_a_lucky_draw_trips_nothing_but_the_same_number_of_many_does() -> None:
    """The mean is over the limit both times; only with enough prompts is that more than chance."""
    few = look() | {"held": [1.0, 0.0, 1.0, 1.0, 0.0, 1.0] + [None] * (N - 6)}
    base = look() | {"held": [1.0, 1.0, 1.0, 1.0, 0.0, 1.0] + [None] * (N - 6)}
    assert names(base, few) == set()
    many = look() | {"held": [1.0, 0.0, 1.0, 1.0, 0.0, 1.0] * 10}
    assert names(look() | {"held": [1.0, 1.0, 1.0, 1.0, 0.0, 1.0] * 10}, many) == {"held"}


def training(rng: random.Random, better: float, worse: float, prompts: int = 60, looks: int = 10) -> int | None:
    """Looks at a policy whose answers drift: the share of right ones by `better`, and by `worse` the one answer to all.

    Four answers a prompt, one prompt in five tells how reward and held-out score rank them; returns the look at which a
    wire trips.
    """
    hard = [rng.betavariate(1.5, 1.5) for _ in range(prompts)]

    def seen(at: float) -> dict[str, list[float | None]]:
        measures = ("held", "top_answer", "length", "entropy", "kl", "correlation")
        found: dict[str, list[float | None]] = {name: [] for name in measures}
        for place, p in enumerate(hard):
            refused = [rng.random() < worse * at for _ in range(4)]
            chance = min(max(p + better * at, 0.0), 1.0)
            right = [not r and rng.random() < chance for r in refused]
            tokens = [5 if r else rng.randint(15, 30) for r in refused]
            found["held"].append(sum(right) / 4)
            found["top_answer"].append(sum(refused) / 4)
            found["length"].append(sum(tokens) / 4)
            found["entropy"].append(rng.gauss(1.5 - 0.3 * at, 0.3))
            found["kl"].append(rng.gauss(0.6 * at, 0.5))
            found["correlation"].append(rng.choice((-0.33, 0.0, 0.33, 0.33, 1.0)) if place % 5 == 0 else None)
        return found

    base = seen(0.0)
    for i in range(1, looks + 1):
        if names(base, seen(i / looks), looks):
            return i
    return None


def test_an_honest_training_trips_in_at_most_one_of_twenty_seeds_and_a_gamed_one_always() -> None:
    clean = [training(random.Random(seed), better=0.2, worse=0.0) for seed in range(20)]
    assert sum(at is not None for at in clean) <= 1
    gamed = [training(random.Random(seed), better=0.0, worse=1.0) for seed in range(20)]
    # A tenth of the answers is refused at the first look, three tenths at the third: the wire is quick.
    assert all(at is not None and at <= 3 for at in gamed)


def test_the_more_looks_there_are_the_more_it_takes() -> None:
    base, now = look(), look() | {"held": [float(i % 2 and i % 8 > 1) for i in range(N)]}
    bounds = [next(w.bound for w in wires(base, now, SPEC, 8, DRAWS, n) if w.name == "held") for n in (1, 10, 100)]
    assert bounds == sorted(bounds) and bounds[0] < 0 < bounds[2]
    assert names(base, now) == {"held"} and names(base, now, looks=100) == set()


def test_what_was_not_measured_trips_nothing() -> None:
    bare: dict[str, list[float | None]] = {"entropy": [1.0] * N, "kl": [0.1] * N}
    assert {wire.name for wire in wires(bare, bare, SPEC, 8, DRAWS)} == {"kl", "entropy"}
    assert wires({}, {}, SPEC, 8, DRAWS) == []


def test_forms_of_an_answer() -> None:
    assert repetition("a b c d a b c d") == pytest.approx(0.2)
    assert repetition("a b c") == repetition("") == 0.0
    assert repetition("no " * 20) > 0.9
    assert top_share([["x", "x"], ["x", "y"], ["z", "z"]]) == [1.0, 0.5, 0.0]
    assert top_share([["z", "z", "z"], ["x"], ["x"]]) == [0.0, 1.0, 1.0]  # one group elects nothing
    assert top_share([[], []]) == [0.0, 0.0]
    assert agreement([0.1, 0.5, 0.9], [0.0, 0.0, 1.0]) == pytest.approx(0.8164966)
    assert agreement([0.5, 0.5], [0.0, 1.0]) is None and agreement([None, 1.0], [0.0, 1.0]) is None


def seen(step: int, held: float | None, *trips: str) -> dict[str, Any]:
    measured = {"held": [held]} if held is not None else {"kl": [0.1]}
    return {
        "step": step,
        "measured": measured,
        "wires": [{"name": n, "value": 2.0, "bound": 1.5, "limit": 1.0, "tripped": True} for n in trips],
    }


BASE: dict[str, list[float | None]] = {"held": [0.3]}


def test_the_best_look_is_kept() -> None:
    assert best(BASE, [seen(1, 0.2), seen(2, 0.5), seen(3, 0.5), seen(4, 0.1)]) == 2
    assert best(BASE, [seen(1, 0.4), seen(2, 0.9, "kl")]) == 1
    assert best({}, [seen(1, None), seen(2, None)]) == 2  # no held-out score: the last
    assert best(BASE, [seen(1, 0.9, "kl")]) is None
    assert best(BASE, [seen(1, 0.2), seen(2, 0.3)]) == 0, "none is better than the base"
    assert tripped(seen(1, 0.9, "kl", "length")) == ["kl", "length"]


def test_training_stops_at_a_trip_or_without_progress() -> None:
    assert not should_stop(BASE, [seen(1, 0.5), seen(2, 0.4), seen(3, 0.4)], 3)
    assert should_stop(BASE, [seen(1, 0.5), seen(2, 0.4), seen(3, 0.4), seen(4, 0.5)], 3)
    assert should_stop(BASE, [seen(1, 0.5, "kl")], 3)
    assert not should_stop({}, [seen(i, None) for i in range(9)], 3)
    worse = [seen(1, 0.2), seen(2, 0.1), seen(3, 0.2)]
    assert should_stop(BASE, worse, 3) and not should_stop(BASE, worse[:2], 3)


def test_a_training_that_is_never_better_than_the_base_trips() -> None:
    said = summary(BASE, [seen(20, 0.25), seen(40, 0.28)])
    assert (said["tripped"], said["best_step"]) == (["no_gain"], 0)
    assert said["says"] == "at step 40 no look has a better held-out score than the base: 0.28 at best, the base 0.3"
    assert summary(BASE, [seen(20, 0.31), seen(40, 0.28)])["tripped"] == []
    assert summary({}, [seen(20, None)])["tripped"] == [], "without a held-out score nothing says so"
    assert summary(BASE, [seen(20, 0.2), seen(40, 0.2, "kl")])["tripped"] == ["kl"], "a wire says more"


def test_the_evidence_says_what_tripped() -> None:
    said = summary(look(), [seen(20, 0.5), seen(40, 0.4, "kl")])
    assert said["says"] == "at step 40 kl is 2, limit 1"
    assert (said["tripped"], said["best_step"]) == (["kl"], 0), "half of the base's are right, as of the first look's"
    assert [entry["held"] for entry in said["looks"]] == [0.5, 0.4]
    error = BrakeError([said, said])
    assert "tripped twice and is discarded: at step 40 kl is 2" in str(error)
    assert error.detail["trips"] == [said, said]
