"""Rules over the text alone: exact, fuzzy, numeric, regex, JSON schema. No model, no database.

Not a parser of prose: `numeric` takes the last number it finds, with English thousands separators; with a unit, the
last one that has a unit of that kind (`units`), else the last one without any. Patterns and schemas come from the
project's author and are trusted to end; only their size and the answer's are bounded.
"""

import json
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any

import referencing
from jsonschema import SchemaError
from jsonschema.exceptions import best_match
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for

from taolake.config import CheckScorer
from taolake.scoring.units import find_unit, read_unit
from taolake.types import Message, Score

MAX_PATTERN_CHARS = 500
MAX_ANSWER_CHARS = 50_000
_MAX_LETTERS = 2_000  # longer texts are compared by words: by letters the time grows with the square
_ZERO_TOLERANCE = 1e-12  # a relative tolerance says nothing around a target of 0

_NUMBER = re.compile(
    r"(?<![^\W\d_])(?P<sign>(?<!\w)[-+\u2212])?"  # not the 2 of CO2; not the minus of 2024-01
    r"[$€£¥]?(?P<digits>(?:\d{1,3}(?:[,_\u00a0\u202f]\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?P<exponent>[eE][-+]?\d{1,3}(?!\w))?(?P<percent>\s?%)?"
)


@dataclass(frozen=True)
class Check:
    """The `exact`, `fuzzy`, `numeric`, `regex` and `json_schema` scorers: 1 if the rule holds, else 0.

    Raises:
        ValueError: the rule itself is malformed, so that a project fails before a round and not in it.
    """

    spec: CheckScorer

    def __post_init__(self) -> None:
        if self.spec.kind == "regex":
            require_pattern(self.spec.name, self.spec.pattern)
        if self.spec.kind == "json_schema":
            _check_schema(self.spec)
        if self.spec.kind == "fuzzy" and not text_key(self.spec.pattern):
            raise ValueError(f"scorer {self.spec.name!r}: got no text to compare with, wanted `pattern`")
        if self.spec.unit and find_unit(self.spec.unit) is None:
            got = f"got unit {self.spec.unit!r}"
            raise ValueError(
                f"scorer {self.spec.name!r}: {got}, wanted one of taolake.scoring.units, such as km or USD"
            )

    def __call__(self, messages: Sequence[Message], answer: str) -> Score:
        """Hold the answer against the rule."""
        if len(answer) > MAX_ANSWER_CHARS:
            error = f"got an answer of {len(answer)} characters, wanted at most {MAX_ANSWER_CHARS}"
            return Score(None, "abstain", detail={"error": error})
        match self.spec.kind:
            case "exact":
                return _exact(self.spec, answer)
            case "fuzzy":
                return _fuzzy(self.spec, answer)
            case "numeric":
                return _numeric(self.spec, answer)
            case "regex":
                return _regex(self.spec, answer)
            case "json_schema":
                return _json_schema(self.spec, answer)


def text_key(text: str) -> str:
    """What an exact answer means: its words, whatever the spacing and Unicode form."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def last_number(text: str) -> float | None:
    """The last number of a text: `$1,234.50` is 1234.5, `45 %` is 0.45; None when there is none (or none finite)."""
    matches = list(_NUMBER.finditer(text))
    if not matches:
        return None
    value = _value(matches[-1]) * (0.01 if matches[-1]["percent"] else 1)
    return value if math.isfinite(value) else None


def last_quantity(text: str, unit: str) -> tuple[float | None, str]:
    """The last number with a unit of the kind of `unit`, in `unit`; else the last number without one, as it is.

    Returns None and a reason where every number has a unit of another kind, or there is no number.

    Raises:
        ValueError: the table has no such unit.
    """
    wanted = find_unit(unit)
    if wanted is None:
        raise ValueError(f"got unit {unit!r}, wanted one of taolake.scoring.units")
    bare, other = None, ""
    for found in reversed(list(_NUMBER.finditer(text))):
        factor, given = read_unit(text, found.start("digits"), found.end("exponent" if found["exponent"] else "digits"))
        value = _value(found) * factor
        if given is not None and given.kind == wanted.kind:
            value *= given.factor / wanted.factor
            return (value, "") if math.isfinite(value) else (None, "no finite number in the answer")
        if given is None and bare is None and math.isfinite(value):
            bare = value
        other = other or (f"the number is a {given.kind}, wanted {unit}" if given else "")
    return bare, "" if bare is not None else other or "no number in the answer"


def _value(found: re.Match[str]) -> float:
    digits = re.sub(r"[,_\u00a0\u202f]", "", found["digits"])
    return float(digits + (found["exponent"] or "")) * (-1 if found["sign"] in ("-", "\u2212") else 1)


def number_key(value: float) -> str:
    """Write a number so that equal values are equal text; twelve significant digits."""
    rounded = float(f"{value:.12g}")
    return str(int(rounded)) if rounded.is_integer() else repr(rounded)


def is_close(value: float, target: float, tolerance: float) -> bool:
    """Whether a number is within a relative tolerance of the one wanted."""
    return abs(value - target) <= max(tolerance * abs(target), _ZERO_TOLERANCE)


def require_pattern(name: str, pattern: str) -> None:
    """Refuse a scorer's pattern that is empty, overlong or no regular expression.

    Raises:
        ValueError: which of these it is.
    """
    if not 0 < len(pattern) <= MAX_PATTERN_CHARS:
        got = f"a pattern of {len(pattern)} characters"
        raise ValueError(f"scorer {name!r}: got {got}, wanted 1 to {MAX_PATTERN_CHARS}: set a shorter `pattern`")
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"scorer {name!r}: got pattern {pattern!r}, wanted a regex: {error}") from None


def _exact(spec: CheckScorer, answer: str) -> Score:
    key = text_key(answer)
    wanted = text_key(spec.pattern)
    return Score(float(key == wanted if wanted else bool(key)), answer_key=key or None)


def _fuzzy(spec: CheckScorer, answer: str) -> Score:
    got, wanted = text_key(answer).casefold(), text_key(spec.pattern).casefold()
    if max(len(got), len(wanted)) <= _MAX_LETTERS:
        similarity = SequenceMatcher(None, wanted, got, autojunk=False).ratio()
    else:
        similarity = SequenceMatcher(None, wanted.split(), got.split(), autojunk=False).ratio()
    detail = {"similarity": round(similarity, 4)}
    return Score(float(similarity >= spec.threshold), answer_key=text_key(answer) or None, detail=detail)


def _numeric(spec: CheckScorer, answer: str) -> Score:
    value, error = last_quantity(answer, spec.unit) if spec.unit else (last_number(answer), "no number in the answer")
    if value is None:
        return Score(0.0, detail={"error": error})
    holds = spec.target is None or is_close(value, spec.target, spec.tolerance)
    return Score(float(holds), answer_key=number_key(value), detail={"number": value})


def _regex(spec: CheckScorer, answer: str) -> Score:
    found = re.search(spec.pattern, answer)
    if found is None:
        return Score(0.0, detail={"error": "the pattern does not match"})
    return Score(1.0, answer_key=found[1] if found.re.groups else found[0])


def _json_schema(spec: CheckScorer, answer: str) -> Score:
    try:
        value = json.loads(answer, parse_float=_json_float, parse_constant=_json_float)
        problem = best_match(_validator(json.dumps(spec.schema_)).iter_errors(value))
        key = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError) as error:  # nesting as deep as the interpreter's stack is bad JSON too
        return Score(0.0, detail={"error": f"not JSON: {str(error)[:200]}"})
    if problem is not None:
        return Score(0.0, detail={"error": problem.message[:200], "at": problem.json_path})
    return Score(1.0, answer_key=key)


def _json_float(text: str) -> int | float:
    """2.0 is 2, as JSON Schema has it; NaN, Infinity and 1e999 are not JSON."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"got the number {text[:20]}, wanted a finite one")
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


@lru_cache(maxsize=64)
def _validator(schema: str) -> Validator:
    loaded: dict[str, Any] = json.loads(schema)
    # An empty registry: a remote $ref must fail, not reach into the network once a candidate.
    return validator_for(loaded)(loaded, registry=referencing.Registry())


def _check_schema(spec: CheckScorer) -> None:
    try:
        validator_for(spec.schema_).check_schema(spec.schema_)
    except SchemaError as error:
        raise ValueError(f"scorer {spec.name!r}: `schema` is not a JSON Schema: {error.message}") from None
