"""Is an answer right? By a label: the same result, the same number, or the same text. Whose label is not asked here."""

from collections.abc import Callable

from taolake.config import RightAnswers
from taolake.scoring import checks, sql

_TOLERANCE = 1e-6


def comparer(spec: RightAnswers, label: str) -> Callable[[str], bool]:
    """How an answer is held against a label."""
    match spec.compare:
        case "sql":
            database = str(spec.database)
            return lambda answer: sql.same_result(database, label, answer, rule=spec.rows, dialect=spec.dialect)
        case "numeric":
            wanted = checks.last_number(label)
            return lambda answer: _same_number(answer, wanted)
        case "exact":
            return lambda answer: answer.strip() == label.strip()


def _same_number(answer: str, wanted: float | None) -> bool:
    got = checks.last_number(answer)
    return got is not None and wanted is not None and checks.is_close(got, wanted, _TOLERANCE)
