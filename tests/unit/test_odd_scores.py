"""Whatever a scorer gives, it ends as one explained row."""

import json
from collections.abc import Callable

import pytest

from taolake.config import FunctionScorer
from taolake.scoring.function import FunctionCheck
from taolake.stages import scored
from taolake.types import Score


def odd(messages: object, answer: str, **options: object) -> object:
    """A scorer of the user's that goes wrong on some answers."""
    wrong: dict[str, Callable[[], object]] = {
        "nan": lambda: float("nan"),
        "infinity": lambda: float("inf"),
        "text": lambda: "0.5",
        "nothing": lambda: [],
        "several": lambda: [0.1, 0.2],
        "text inside": lambda: Score("good"),  # type: ignore[arg-type]
        "raises": lambda: 1 / 0,
    }
    return wrong[answer]() if answer in wrong else 1.0


SCORES = [
    ("nan", "abstain", "got NaN"),
    ("infinity", "error", "got inf"),
    ("text", "error", "got str '0.5', wanted a number"),
    ("nothing", "error", "got list [], wanted a number"),
    ("several", "error", "got list [0.1, 0.2], wanted a number"),
    ("text inside", "error", "got str 'good', wanted a number"),
    ("raises", "error", "ZeroDivisionError"),
]


@pytest.mark.parametrize(("answer", "status", "reason"), SCORES)
def test_a_value_that_is_no_number_is_explained(answer: str, status: str, reason: str) -> None:
    given = FunctionCheck(FunctionScorer(kind="function", name="mine", target=f"{__name__}:odd"))([], answer)
    row = scored.row({"candidate_id": "c", "prompt_id": "p", "policy": "b"}, "mine", "1", given)
    assert (row["value"], row["status"]) == (None, status)
    assert reason in json.loads(row["detail"])["error"]


def test_a_number_stays() -> None:
    given = FunctionCheck(FunctionScorer(kind="function", name="mine", target=f"{__name__}:odd"))([], "fine")
    assert (given.value, given.status) == (1.0, "ok")


@pytest.mark.parametrize("given", [0, 1, 3])
def test_too_few_scores_leave_the_rest_without_one(given: int) -> None:
    found = list(scored.every(iter([Score(0.5)] * given), 3))
    assert [s.value for s in found] == [0.5] * given + [None] * (3 - given)
    assert [s.status for s in found] == ["ok"] * given + ["error"] * (3 - given)
    assert all(s.detail == {"error": f"got {given} scores for 3 answers"} for s in found[given:])
