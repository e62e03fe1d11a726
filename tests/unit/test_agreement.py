"""Which answers mean the same: shares of the vote, entropy, canonical query results."""

import datetime
import math
from decimal import Decimal

import pytest

from taolake.scoring.agreement import agreement, canonical, entropy, number_text


@pytest.mark.parametrize(
    ("keys", "shares", "nats"),
    [
        ([], [], 0.0),
        ([None], [None], 0.0),
        (["a"], [1.0], 0.0),
        (["a", "a"], [1.0, 1.0], 0.0),
        (["a", "b"], [0.5, 0.5], math.log(2)),
        (["a", None, "a", "b", "a"], [0.75, None, 0.75, 0.25, 0.75], 0.75 * math.log(4 / 3) + 0.25 * math.log(4)),
        (["", "", "é"], [2 / 3, 2 / 3, 1 / 3], math.log(3) - 2 / 3 * math.log(2)),
        (list("abcd"), [0.25] * 4, math.log(4)),
    ],
)
def test_agreement_and_entropy(keys: list[str | None], shares: list[float | None], nats: float) -> None:
    assert agreement(keys) == shares
    assert entropy(keys) == pytest.approx(nats, abs=1e-12)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.0, "2"),
        (-0.0, "0"),
        (0.1 + 0.2, "0.3"),
        (1e22, str(10**22)),
        (2.5, "2.5"),
        (1.23456789, "1.234568"),
        (math.inf, "inf"),
    ],
)
def test_number_text(value: float, text: str) -> None:
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("a", "b", "ordered", "same"),
    [
        ([(2,)], [(2.0,)], False, True),
        ([(2,)], [("2",)], False, False),
        ([(2,)], [(Decimal("2.00"),)], False, True),
        ([(True,)], [(1,)], False, True),
        ([(0.1 + 0.2,)], [(0.3,)], False, True),
        ([(1234567.81,)], [(1234567.82,)], False, False),
        ([(1234567.81,)], [(1234567.81 + 1e-9,)], False, True),
        ([(123456789012345678,)], [(123456789012345679,)], False, False),
        ([(0.00000123,)], [(0.00000124,)], False, False),
        ([(-0.0,)], [(0,)], False, True),
        ([(float("nan"),)], [(float("nan"),)], False, True),
        ([(None,)], [("null",)], False, False),
        ([(None,)], [("",)], False, False),
        ([], [(None,)], False, False),
        ([(1,), (1,)], [(1,)], False, False),
        ([(1,), (2,)], [(2,), (1,)], False, True),
        ([(1,), (2,)], [(2,), (1,)], True, False),
        ([(1, 2)], [(2, 1)], False, False),
        ([(b"a",)], [("a",)], False, False),
        ([("a\nb",)], [("a",), ("b",)], False, False),
        ([(datetime.date(2024, 1, 2),)], [("2024-01-02",)], False, True),
        ([([1, 2.0],)], [([1.0, 2],)], False, True),
    ],
)
def test_canonical_results(a: list[tuple], b: list[tuple], ordered: bool, same: bool) -> None:
    assert (canonical(a, ordered) == canonical(b, ordered)) is same
