"""Scorers that need one candidate alone: a query's result, a rule over the text, a function of the user's.

Scores of whole groups (agreement) and of a reward model are made by the score stage, not built here.
Floor 1: no Spark, no torch. What `build` returns holds its spec only, so it pickles to an executor as it is.
"""

import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from taolake.config import AgreementScorer, CheckScorer, FunctionScorer, RewardModelScorer, ScorerSpec, SqlScorer
from taolake.ids import content_hash, file_hash
from taolake.scoring.checks import Check
from taolake.scoring.sql import SqlAnswer
from taolake.types import Message, Score, Scorer


def build(spec: ScorerSpec) -> Scorer:
    """Make the scorer a spec describes; what it needs (database, pattern, function) is checked now.

    Raises:
        ValueError: the spec cannot work, or its kind scores groups rather than single candidates.
    """
    match spec:
        case SqlScorer():
            return SqlAnswer(spec)
        case CheckScorer():
            return Check(spec)
        case FunctionScorer():
            return FunctionCheck(spec)
        case AgreementScorer() | RewardModelScorer():
            raise ValueError(
                f"got scorer {spec.name!r} of kind {spec.kind!r}, wanted sql, a check or function: "
                "the score stage makes agreement and reward-model scores, which need the whole group or an engine"
            )


def version(spec: ScorerSpec) -> str:
    """Hash what a scorer's values depend on: its spec, its database, its function's source file; 12 hex digits."""
    parts: list[Any] = [spec.model_dump(mode="json", by_alias=True)]
    if isinstance(spec, SqlScorer):
        parts.append(file_hash(Path(spec.database)))
    if isinstance(spec, FunctionScorer):
        parts.append(_source(spec.target).read_text(encoding="utf-8"))
    return content_hash("scorer", *parts)[:12]


@dataclass(frozen=True)
class FunctionCheck:
    """The `function` scorer: calls `f(messages, answer, **options)` and makes a Score of what it returns.

    The one boundary where any exception is caught: a user's bug on one row is a counted None, not a dead round.
    """

    spec: FunctionScorer

    def __post_init__(self) -> None:
        _function(self.spec.target)

    def __call__(self, messages: Sequence[Message], answer: str) -> Score:
        """Call the function."""
        try:
            result = _function(self.spec.target)(messages, answer, **self.spec.options)
            score = result if isinstance(result, Score) else Score(None if result is None else float(result))
        except Exception as error:
            return Score(None, "error", detail={"error": f"{type(error).__name__}: {error}"[:500]})
        if score.value is None:
            return Score(None, "abstain", score.answer_key, score.detail) if score.status == "ok" else score
        if math.isnan(score.value):
            return Score(None, "abstain", score.answer_key, {**score.detail, "error": "got NaN"})
        if not 0 <= score.value <= 1:
            error_text = f"got {score.value:g} from {self.spec.target}, wanted a value from 0 to 1 or None"
            return Score(None, "error", score.answer_key, {**score.detail, "error": error_text})
        return score


@lru_cache(maxsize=64)
def _function(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"got function {target!r}, wanted one that imports: {error}; check the path") from None
    if not callable(function):
        raise ValueError(f"got {target!r}, a {type(function).__name__}, wanted a function")
    return function  # type: ignore[no-any-return]


def _source(target: str) -> Path:
    module = target.partition(":")[0]
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        raise ValueError(f"got function {target!r}, wanted one in a .py file: its source is part of the version")
    return Path(found.origin)
