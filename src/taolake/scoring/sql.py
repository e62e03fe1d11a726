"""What a generated query is worth: it runs or not, and what its result means. SQLite and DuckDB.

It runs in a child process, which holds the limits (`queries`, `taolake.sandbox.query`); here are the verdicts. A query
that is wrong or takes too much memory is worth 0. Where the machine failed the scorer answers None, never 0. Spark SQL:
`taolake.stages.spark_sql`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from taolake.config import SqlScorer
from taolake.ids import content_hash
from taolake.sandbox.statement import MAX_QUERY_CHARS as MAX_QUERY_CHARS
from taolake.sandbox.statement import QueryError as QueryError
from taolake.sandbox.statement import is_ordered
from taolake.scoring.agreement import canonical as canonical
from taolake.scoring.queries import MEMORY_MB, Dialect, Row, run_queries, served
from taolake.scoring.queries import run_query as run_query
from taolake.scoring.results import Rule, same_rows
from taolake.types import Message, Score

_BATCH = 256  # queries a round trip: one alone costs 0.15 ms of pipe, one of many a tenth of that
_REMEMBERED = 2048  # verdicts kept: candidates of one prompt repeat each other


def answer_key(rows: Sequence[Row], sql: str) -> str:
    """Hash what a query's result means; row order counts only where the query itself asked for one."""
    return content_hash("sql", canonical(rows, is_ordered(sql)))


def same_result(
    database: str,
    sql_a: str,
    sql_b: str,
    *,
    rule: Rule = "multiset",
    dialect: Dialect = "sqlite",
    timeout_s: float = 2.0,
    max_rows: int = 1000,
    memory_mb: int = MEMORY_MB,
) -> bool:
    """Whether two queries give the same result by a rule (`results.same_rows`); the first is the gold one.

    A second query that is wrong or too slow is not the same; a gold query that fails raises its `QueryError`.
    """
    gold, other = run_queries(
        database, [sql_a, sql_b], dialect=dialect, timeout_s=timeout_s, max_rows=max_rows, memory_mb=memory_mb
    )
    if isinstance(gold, Exception):
        raise gold
    if isinstance(other, OSError):
        raise other
    return not isinstance(other, QueryError) and same_rows(gold, other, rule, is_ordered(sql_a))


@dataclass(frozen=True)
class SqlAnswer:
    """The `sql` scorer: 1 if the answer runs, 0 if it is wrong, None if it took too long or the machine failed."""

    spec: SqlScorer

    def __post_init__(self) -> None:
        file, dialect = self.spec.database, _dialect(self.spec)
        if not Path(file).is_file():
            raise ValueError(f"got database {file!r}, which is not a file; wanted a {dialect} database: check the path")
        try:
            served(file, dialect, self.spec.memory_mb)
        except OSError as error:
            raise ValueError(f"{file!r} does not open as {dialect}: {error}; set `dialect` to what it is") from None

    def __call__(self, messages: Sequence[Message], answer: str) -> Score:
        """Run the answer."""
        return next(self.many([answer]))

    def many(self, answers: Iterable[str]) -> Iterator[Score]:
        """Run answers, in order, many a round trip; an answer seen a little while ago is not run again."""
        left = iter(answers)
        while some := list(islice(left, _BATCH)):
            known = _known(self.spec)
            verdicts = {answer: known[answer] for answer in some if answer in known}
            new = [answer for answer in dict.fromkeys(some) if answer not in verdicts]
            for answer, score in zip(new, self._run(new), strict=True):
                verdicts[answer] = score
                if score.status != "error":  # a machine may recover
                    known[answer] = score
            while len(known) > _REMEMBERED:
                del known[next(iter(known))]
            yield from (verdicts[answer] for answer in some)

    def _run(self, answers: Sequence[str]) -> Iterator[Score]:
        spec = self.spec
        found = run_queries(
            spec.database,
            answers,
            dialect=_dialect(spec),
            timeout_s=spec.timeout_s,
            max_rows=spec.max_rows,
            memory_mb=spec.memory_mb,
        )
        return (verdict(result, answer) for result, answer in zip(found, answers, strict=True))


def verdict(result: list[Row] | QueryError | OSError, answer: str) -> Score:
    """The score of a query that gave a result, or failed: its own fault is 0, the machine's None."""
    match result:
        case QueryError(status="timeout"):
            return Score(None, "timeout", detail={"error": str(result)})
        case QueryError():
            return Score(0.0, detail={"error": str(result)})
        case OSError():
            return Score(None, "error", detail={"error": str(result)})
    detail = {"rows": len(result), "preview": [str(row)[:200] for row in result[:3]]}
    return Score(1.0, answer_key=answer_key(result, answer), detail=detail)


def _dialect(spec: SqlScorer) -> Dialect:
    if spec.dialect == "spark":
        raise ValueError(f"scorer {spec.name!r} has dialect 'spark', wanted sqlite or duckdb: the score stage runs it")
    return spec.dialect


def _known(spec: SqlScorer) -> dict[str, Score]:
    """Verdicts this thread gave lately for a scorer; none where the database cannot be served now."""
    try:
        database = served(spec.database, _dialect(spec), spec.memory_mb)
    except OSError:
        return {}
    return database.known.setdefault((spec.timeout_s, spec.max_rows), {})
