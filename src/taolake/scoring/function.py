"""The `function` scorer: a function of the user's, by its import path. Also where other specs' functions are loaded.

Trusted code: it comes with the project, runs in this process, and is not limited.
"""

import importlib
import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from taolake.config import FunctionScorer
from taolake.types import Message, Score


@dataclass(frozen=True)
class FunctionCheck:
    """The `function` scorer: calls `f(messages, answer, **options)` and makes a Score of what it returns.

    The one boundary where any exception is caught: a user's bug on one row is a counted None, not a dead round.
    """

    spec: FunctionScorer

    def __post_init__(self) -> None:
        load_function(self.spec.target)

    def __call__(self, messages: Sequence[Message], answer: str) -> Score:
        """Call the function."""
        try:
            result = load_function(self.spec.target)(messages, answer, **self.spec.options)
            score = sound(result if isinstance(result, Score) else Score(result))
        except Exception as error:  # the user's function, on one answer
            return Score(None, "error", detail={"error": f"{type(error).__name__}: {error}"[:500]})
        if score.value is None:
            return Score(None, "abstain", score.answer_key, score.detail) if score.status == "ok" else score
        if not 0 <= score.value <= 1:
            error_text = f"got {score.value:g} from {self.spec.target}, wanted a value from 0 to 1 or None"
            return Score(None, "error", score.answer_key, {**score.detail, "error": error_text})
        return score


def sound(score: Score) -> Score:
    """The score with a plain float, or none with the reason where its value is no number, whatever its type promises.

    Text is no number, though it may look like one. NaN says that the scorer could not tell.
    """
    value: Any = score.value
    if value is None:
        return score
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        reason = f"got {type(value).__name__} {value!r:.80}, wanted a number from 0 to 1 or None"
        return Score(None, "error", score.answer_key, {**score.detail, "error": reason})
    number = float(value)
    if math.isfinite(number):
        return replace(score, value=number)
    status: Literal["abstain", "error"] = "abstain" if math.isnan(number) else "error"
    said = "NaN" if math.isnan(number) else f"{number:g}, wanted a finite number"
    return Score(None, status, score.answer_key, {**score.detail, "error": f"got {said}"})


@lru_cache(maxsize=64)
def load_function(target: str) -> Callable[..., Any]:
    """Import `package.module:function`.

    Raises:
        ValueError: there is none.
    """
    module, _, name = target.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"got function {target!r}, wanted one that imports: {error}; check the path") from None
    if not callable(function):
        raise ValueError(f"got {target!r}, a {type(function).__name__}, wanted a function")
    return function  # type: ignore[no-any-return]


def require(functions: Mapping[str, str]) -> None:
    """Import functions by import path, under the names of the fields that ask for them.

    Raises:
        ValueError: with a line for each that cannot be used.
    """
    if missing := list(_missing(functions)):
        raise ValueError("\n".join(["the project names functions that cannot be used:", *missing]))


def _missing(functions: Mapping[str, str]) -> Iterator[str]:
    for field, target in functions.items():
        try:
            load_function(target)
        except ValueError as error:
            yield f"  {field}: {error}"
        except Exception as error:  # the user's module, while it is imported
            yield f"  {field}: got {type(error).__name__} from importing {target!r}: {error}"


def source_of(target: str) -> Path:
    """The file a function is written in.

    Raises:
        ValueError: there is none in Python.
    """
    module = target.partition(":")[0]
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        raise ValueError(f"got function {target!r}, wanted one in a .py file: its source is part of the version")
    return Path(found.origin)
