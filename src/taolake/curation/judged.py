"""The fields of one record of people's choices: which answers were shown, and how good each was found.

Not the whole record, nor what follows from it: see `taolake.curation.choices`, whose docstring has the shapes. A field
that cannot be read raises ValueError with a reason that shows no one's text.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taolake import ids

KINDS = ("best_of", "ranking", "pair", "rating", "thumb", "edit")
_UP = {"up", "thumbs_up", "yes", "true", "good", "1", "👍"}
_DOWN = {"down", "thumbs_down", "no", "false", "bad", "0", "-1", "👎"}


@dataclass(frozen=True)
class Answer:
    """An answer that was shown: a candidate of ours, or a text that stands for itself."""

    id: str
    text: str


Judged = tuple[tuple[Answer, ...], tuple[float, ...], float]


def judged(kind: str, row: Mapping[str, Any], prompt: str, limit: int) -> Judged:
    """Answers, each once and by ascending id, their levels, and the difference of levels that is full strength.

    Raises:
        ValueError: the record cannot be used; the message is the reason.
    """
    match kind:
        case "best_of":
            answers = _answers(row, prompt, limit)
            chosen = _number(row, "chosen")
            if chosen not in range(len(answers)):
                raise ValueError(f"chosen is {chosen:g}, wanted a number from 0 to {len(answers) - 1}")
            best = answers[int(chosen)].id  # the same text may have been shown twice
            return _once([(answer, float(answer.id == best)) for answer in answers], 1.0)
        case "ranking":
            answers, ranks = _answers(row, prompt, limit), _list(row, "ranks")
            if len(ranks) != len(answers):
                raise ValueError(f"got {len(ranks)} ranks for {len(answers)} answers, wanted one for each")
            levels = [-_number({"ranks": rank}, "ranks") for rank in ranks]
            order = sorted(set(levels))
            placed = [float(order.index(level)) for level in levels]
            return _once(list(zip(answers, placed, strict=True)), float(max(1, len(order) - 1)))
        case "rating":
            low, high = (_number(row, name, default) for name, default in (("low", 1.0), ("high", 5.0)))
            given = _number(row, "rating")
            if not low < high:
                raise ValueError(f"got a scale from {low:g} to {high:g}, wanted low < high")
            if not low <= given <= high:
                raise ValueError(f"rating {given:g} is not from {low:g} to {high:g}; give the scale's `low` and `high`")
            return (_answer(row, "answer", prompt, limit),), ((given - low) / (high - low),), 1.0
        case "thumb":
            return (_answer(row, "answer", prompt, limit),), (_thumb(row.get("thumb")),), 1.0
    better, worse = ("chosen", "rejected") if kind == "pair" else ("edited", "original")
    strength = _number(row, "strength", 1.0)
    if not 0 < strength <= 1:
        raise ValueError(f"strength is {strength:g}, wanted more than 0 and at most 1")
    both = [(_answer(row, better, prompt, limit), 1.0), (_answer(row, worse, prompt, limit), 0.0)]
    if both[0][0].text == both[1][0].text:
        raise ValueError(f"{better} and {worse} are the same text")
    return _once(both, 1 / strength)


def _once(given: Sequence[tuple[Answer, float]], span: float) -> Judged:
    """Each answer once, by id; one that was shown twice and judged differently cannot be used."""
    level: dict[Answer, float] = {}
    for answer, value in given:
        if level.setdefault(answer, value) != value:
            raise ValueError("the same answer was shown twice and judged differently")
    order = sorted(level, key=lambda answer: answer.id)
    return tuple(order), tuple(level[answer] for answer in order), span


def _answers(row: Mapping[str, Any], prompt: str, limit: int) -> list[Answer]:
    found = [_answer({"answers": value}, "answers", prompt, limit) for value in _list(row, "answers")]
    if len({answer.id for answer in found}) < 2:
        raise ValueError(
            f"got {len(found)} answers, {len({a.id for a in found})} of them different, wanted two or more"
        )
    return found


def _answer(row: Mapping[str, Any], name: str, prompt: str, limit: int) -> Answer:
    value: Any = row.get(name)
    known: Any = None
    if isinstance(value, Mapping):
        value, known = value.get("text"), value.get("candidate_id")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {_short(value)}, wanted a text that is not empty")
    if len(value) > limit:
        raise ValueError(f"{name} is too long: {len(value)} characters, limit {limit}")
    return Answer(str(known) if known else ids.content_hash("answer", prompt, value), value)


def _list(row: Mapping[str, Any], name: str) -> list[Any]:
    value = row.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(f"{name} is text that is not JSON, wanted a list") from None
    if not isinstance(value, list):
        raise ValueError(f"{name} is {_short(value)}, wanted a list")
    return value


def _number(row: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = row.get(name)
    if value in (None, "") and default is not None:
        return default
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else float("nan")
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf"):
        raise ValueError(f"{name} is {_short(value)}, wanted a number")
    return number


def _thumb(value: Any) -> float:
    word = str(value).strip().lower()
    if word not in _UP | _DOWN:
        raise ValueError(f"thumb is {_short(value)}, wanted up or down")
    return float(word in _UP)


def _short(value: Any) -> str:
    """What was got, without showing a person's text."""
    return "missing" if value is None else f"of type {type(value).__name__}"
