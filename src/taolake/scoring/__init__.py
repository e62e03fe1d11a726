"""Scorers that need one candidate alone: a query's result, a rule over the text, a program's tests, a user's function.

Scores of whole groups (agreement, judges) and of models are made by the score stage, not built here. Floor 1: no Spark,
no torch. What `build` returns holds its spec only, so it pickles to an executor as it is.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from taolake.config import (
    AgreementScorer,
    CheckScorer,
    CitationScorer,
    FunctionScorer,
    JudgeScorer,
    LabelScorer,
    MlflowJudgeScorer,
    PythonTestsScorer,
    RelevanceScorer,
    RewardModelScorer,
    ScorerSpec,
    SqlScorer,
)
from taolake.ids import content_hash, file_hash
from taolake.scoring.checks import Check
from taolake.scoring.citation import Citation
from taolake.scoring.code import PythonTests
from taolake.scoring.function import FunctionCheck, source_of
from taolake.scoring.sql import SqlAnswer
from taolake.types import Message, Score, Scorer


def build(spec: ScorerSpec) -> Scorer:
    """Make the scorer a spec describes; what it needs (database, pattern, function) is checked now.

    Raises:
        ValueError: the spec cannot work, or its kind needs an engine, Spark, or the whole group.
    """
    match spec:
        case SqlScorer(dialect="sqlite" | "duckdb"):
            return SqlAnswer(spec)
        case CheckScorer():
            return Check(spec)
        case CitationScorer():
            return Citation(spec)
        case PythonTestsScorer():
            return PythonTests(spec)
        case FunctionScorer():
            return FunctionCheck(spec)
        case (
            SqlScorer()
            | LabelScorer()
            | AgreementScorer()
            | RelevanceScorer()
            | JudgeScorer()
            | MlflowJudgeScorer()
            | RewardModelScorer()
        ):
            raise ValueError(
                f"got scorer {spec.name!r} of kind {spec.kind!r}, wanted sql (sqlite, duckdb), a check, citation, "
                "python_tests or function: the score stage makes the others: by labels, whole groups or an engine"
            )


def scores(scorer: Scorer, asked: Iterable[tuple[Sequence[Message], str]]) -> Iterator[Score]:
    """Score (messages, answer) pairs in order; equal to calling the scorer on each, and faster where it can batch."""
    if not isinstance(scorer, SqlAnswer):
        yield from (scorer(messages, answer) for messages, answer in asked)
        return
    yield from scorer.many(answer for _, answer in asked)


def version(spec: ScorerSpec) -> str:
    """Hash what a scorer's values depend on: its spec and its `files`; 12 hex digits.

    Of a Spark schema only the name is known here: when its tables change, the version does not.
    """
    return content_hash("scorer", spec.model_dump(mode="json", by_alias=True), *map(file_hash, files(spec)))[:12]


def files(spec: ScorerSpec) -> list[Path]:
    """What a scorer's values depend on outside the project file: databases, labels, the source files of functions.

    Raises:
        ValueError: a function is not written in a Python file.
    """
    match spec:
        case SqlScorer(dialect="sqlite" | "duckdb"):
            return [Path(spec.database)]
        case FunctionScorer():
            return [source_of(spec.target)]
        case LabelScorer():
            return [Path(path) for path in (spec.path, spec.database) if path is not None]
        case PythonTestsScorer():
            return [source_of(spec.tests)]
        case _:
            return []
