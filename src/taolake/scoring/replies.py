"""What a judge's reply says: a grade, a grade for each answer shown, or a winner, out of whatever it wrote.

Tolerant of form (fences, text around JSON, trailing commas, cut-off JSON, numbers as text, `4/5`) and strict about
meaning: a grade outside the scale, two grades that differ, or grades without the answers' labels are errors with a
reason. No grade is ever moved to another answer, and nothing is evaluated. Not here: what judges are asked (`judge`).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

MAX_REPLY_CHARS = 20_000
_SCORE, _ID = {"score", "grade", "rating"}, {"id", "label", "answer", "answer_id"}
_LIST = {"scores", "grades", "ratings", "results", "answers"}
_WINNER = {"winner", "better", "preferred", "verdict", "choice"}
_TIES = {"tie", "a tie", "draw", "equal", "both", "neither", "none", "same"}
_THINKING = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_TRAILING_COMMA = re.compile(r",(?=\s*[}\]])")
_GRADE = r"[-+]?\d+(?:\.\d+)?(?:\s*(?:/|out of)\s*\d+(?:\.\d+)?)?|nan\b"
_GRADE_TEXT = re.compile(r"([-+]?\d+(?:\.\d+)?)(?:\s*(?:/|out of)\s*(\d+(?:\.\d+)?))?")
# In cut-off JSON only a quoted key counts: a reason may speak of scores too.
_GRADE_IN_JSON = re.compile(rf"[\"'](?:score|grade|rating)[\"']\s*:\s*[\"']?({_GRADE})", re.IGNORECASE)
_GRADE_IN_PROSE = re.compile(
    rf"\b(?:score|grade|rating)\b[\s*_]*(?:is|of|:|=)?[\s*_]*({_GRADE})(?!\s*(?:to|[-–])\s*\d)", re.IGNORECASE
)
_WINNER_IN_PROSE = re.compile(
    r"\[\[(A|B|[Tt]ie)\]\]|\b[Ww]inner\b[\s\"'*_]*(?:is|:|=)?[\s\"'*_]*(?:[Aa]nswer\s+)?(A|B|[Tt]ie)\b"
)

Winner = Literal["A", "B", "tie"]


@dataclass(frozen=True)
class Said:
    """What a reply says about one answer: a value from 0 to 1, or why there is none."""

    value: float | None
    error: str = ""


def score(reply: str, low: int, high: int) -> Said:
    """Read one grade on a scale from `low` to `high`, mapped to 0..1."""
    if problem := _unreadable(reply):
        return Said(None, problem)
    text = _THINKING.sub("", reply).strip()
    found: list[Any] = [value for object_ in _objects(text) for value in _values(object_, _SCORE)]
    if not found:
        found = (_GRADE_IN_JSON if "{" in text else _GRADE_IN_PROSE).findall(text)
    if not found and _GRADE_TEXT.fullmatch(text.strip("*_ .")):
        found = [text.strip("*_ .")]
    return _agreed([_grade(value, low, high) for value in found], f"no score in the reply {_quote(text)}")


def scores(reply: str, labels: Sequence[str], low: int, high: int) -> dict[str, Said]:
    """Read a grade for each label; grades are taken by label and never by position."""
    if problem := _unreadable(reply):
        return {label: Said(None, problem) for label in labels}
    text = _THINKING.sub("", reply).strip()
    given: dict[str, list[Said]] = {}
    bare = False
    for label, value in (entry for object_ in _objects(text) for entry in _entries(object_, labels)):
        if label is None:
            bare = True
        else:
            given.setdefault(label, []).append(_grade(value, low, high))
    got, extra = len(given.keys() & set(labels)), sorted(given.keys() - set(labels))
    reason = "scores came without the answers' ids" if bare and not got else f"{got} of {len(labels)} answers scored"
    reason += f", unknown ids {_quote(' '.join(extra))}" if extra else ""
    why = f"this answer has no score ({reason})" if given or bare else f"no scores in the reply {_quote(text)}"
    return {label: _agreed(given.get(label, []), why) for label in labels}


def winner(reply: str) -> tuple[Winner | None, str]:
    """Read which of answers A and B won, or that neither did; None comes with the reason."""
    if problem := _unreadable(reply):
        return None, problem
    text = _THINKING.sub("", reply).strip()
    found = [_side(value) for object_ in _objects(text) for value in _values(object_, _WINNER)]
    if not found:
        found = [_side(a or b) for a, b in _WINNER_IN_PROSE.findall(text)] or [_side(text.strip("*_ ."))]
    named = {side for side in found if side}
    if len(named) == 1 and None not in found:
        return named.pop(), ""
    return None, f"{'two winners' if len(named) > 1 else 'no winner'} in the reply {_quote(text)}"


def feedback(reply: str, values: Mapping[str, float]) -> Said:
    """Read an MLflow judge's value, kept as JSON: a word by what it is worth, a yes or no, or a number from 0 to 1."""
    value = json.loads(reply)["value"]
    worth = {word.strip().lower(): share for word, share in values.items()}
    word = str(value).strip().lower()
    if not isinstance(value, list | dict) and word in worth:
        return Said(worth[word])
    if isinstance(value, bool):
        return Said(float(value))
    if isinstance(value, int | float) and 0 <= value <= 1:
        return Said(float(value))
    return Said(None, f"got {_quote(str(value))}, wanted one of {sorted(worth)}, a yes or no, or a number from 0 to 1")


def _unreadable(reply: str) -> str:
    if not reply.strip():
        return "the reply is empty"
    if len(reply) > MAX_REPLY_CHARS:
        return f"got a reply of {len(reply)} characters, wanted at most {MAX_REPLY_CHARS}"
    return ""


def _objects(text: str) -> list[Any]:
    """Every JSON object or list in a text, outermost first; where one is broken, the whole ones inside it."""
    found, at, decoder = list[Any](), 0, json.JSONDecoder()
    text = _TRAILING_COMMA.sub("", text)
    while (opening := re.compile(r"[{\[]").search(text, at)) is not None:
        try:
            value, at = decoder.raw_decode(text, opening.start())
            found.append(value)
        except ValueError:
            at = opening.start() + 1
        except RecursionError:  # brackets as deep as the stack: every further start would cost as much
            break
    return found


def _values(object_: Any, keys: set[str]) -> list[Any]:
    return [v for k, v in object_.items() if k.strip().lower() in keys] if isinstance(object_, dict) else []


def _entries(found: Any, labels: Sequence[str]) -> Iterator[tuple[str | None, Any]]:
    """Pairs of label and grade in an object of any of the usual shapes; a grade without a label has label None."""
    if isinstance(found, list):
        for each in found:
            yield from _entries(each, labels) if isinstance(each, dict) else [(None, each)]
    elif isinstance(found, dict):
        ids, grades = _values(found, _ID), _values(found, _SCORE)
        if grades and ids and not isinstance(ids[0], list | dict):
            yield _label(ids[0]), grades[0]
            return
        for inner in _values(found, _LIST):
            if isinstance(inner, dict):
                yield from ((_label(key), value) for key, value in inner.items())
            elif isinstance(inner, list):
                yield from _entries(inner, labels)
        yield from ((_label(key), value) for key, value in found.items() if _label(key) in labels)


def _label(name: Any) -> str:
    return re.sub(r"^(?:answer|id)\b", "", str(name).strip().lower()).strip(" #:\"'`<>[]()*")


def _grade(value: Any, low: int, high: int) -> Said:
    """One grade as a value from 0 to 1."""
    wanted = f"wanted {low} to {high}"
    if isinstance(value, str):
        text = value.strip().strip("*_ ")
        match = _GRADE_TEXT.fullmatch(text)
        if match is None:
            return Said(None, f"got the score {_quote(value)}, {wanted}")
        if match[2] is not None and float(match[2]) != high:
            return Said(None, f"got the score {_quote(value)}, on another scale; {wanted}")
        value = float(match[1])
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Said(None, f"got {_quote(json.dumps(value))} for a score, {wanted}")
    if not low <= value <= high:  # which NaN is not either
        return Said(None, f"got the score {str(value)[:20]}, {wanted}")
    return Said((value - low) / (high - low))


def _agreed(found: Iterable[Said], missing: str) -> Said:
    """One word out of those found; two that differ cancel each other out."""
    said = list(dict.fromkeys(found))
    if len(said) > 1:
        return Said(None, "got two scores that differ for one answer")
    return said[0] if said else Said(None, missing)


def _side(value: Any) -> Winner | None:
    text = str(value).strip().strip("\"'*_[]. ") if isinstance(value, str) else ""
    if text.lower() in _TIES:
        return "tie"
    text = re.sub(r"^(?:answer|response|option)\s+", "", text, flags=re.IGNORECASE)
    match text.lower():
        case "a":
            return "A"
        case "b":
            return "B"
        case _:
            return None


def _quote(text: str) -> str:
    short = " ".join(text.split())
    return repr(short if len(short) <= 60 else short[:60] + "…")
