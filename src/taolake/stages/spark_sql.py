"""Run generated Spark SQL on the driver's session, read-only and bounded; the `sql` scorer with `dialect: spark`.

A query is parsed by Spark's own parser, and its plan is walked before anything is resolved or run: only plain queries
over the tables of one schema, only functions of Spark's own without side effects. No commands, no writes, no files as
tables, no scripts, no reflection, no functions a user registered. What runs is the plan that was walked.

Limits: time (the jobs are cancelled, so only planning can pass it), rows, bytes of the result. Memory is not bounded
beyond what Spark does by itself, for the query runs in the session's own executors; functions that build a value of any
length, and recursion, are refused for that reason. For a hostile model put a copy of the data in DuckDB.
"""

import contextlib
import datetime
import re
import threading
import uuid
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from taolake.config import SqlScorer
from taolake.sandbox.statement import QueryError, require_one_select
from taolake.scoring.queries import Row
from taolake.scoring.sql import verdict
from taolake.types import Score

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

MAX_RESULT_BYTES = 16 << 20
_REMEMBERED = 2048
_CANCEL_EVERY_S = 0.2
_LOGICAL = "org.apache.spark.sql.catalyst.plans.logical.LogicalPlan"
_WITH_PLAN = "org.apache.spark.sql.catalyst.expressions.PlanExpression"
_PLANS = (  # names of classes
    "Project Filter Join LateralJoin Aggregate UnresolvedHaving Sort Distinct Union Intersect Except GlobalLimit "
    "LocalLimit Offset OneRowRelation SubqueryAlias UnresolvedRelation UnresolvedSubqueryColumnAliases "
    "UnresolvedInlineTable LocalRelation UnresolvedWith Window WithWindowDefinition Generate Pivot Unpivot Sample "
    "UnresolvedHint UnresolvedTableValuedFunction UnresolvedTVFAliases"
)
_IDENTIFIER_EXPRESSION = "ExpressionWithUnresolvedIdentifier"  # IDENTIFIER('reflect')(...): a name nobody sees
_GROUPS = (
    "agg_funcs array_funcs bitwise_funcs collection_funcs conditional_funcs conversion_funcs csv_funcs datetime_funcs "
    "generator_funcs hash_funcs json_funcs lambda_funcs map_funcs math_funcs predicate_funcs string_funcs struct_funcs "
    "table_funcs url_funcs variant_funcs window_funcs xml_funcs operator_funcs"
)
_ALSO = frozenset({"uuid", "typeof", "monotonically_increasing_id"})
_UNBOUNDED = frozenset({"repeat", "space", "array_repeat", "lpad", "rpad", "sequence", "randstr"})


def scores(spark: "SparkSession", spec: SqlScorer, answers: Iterable[str]) -> Iterator[Score]:
    """Run answers one by one on the driver, in order; an answer seen a little while ago is not run again.

    Raises:
        ValueError: there is no such schema.
    """
    known: dict[str, Score] = {}
    with _reading_from(spark, spec.database):
        pass  # a schema that is not there fails before the first answer
    for answer in answers:
        if answer not in known:
            while len(known) >= _REMEMBERED:
                del known[next(iter(known))]
            known[answer] = _score(spark, spec, answer)
        yield known[answer]


def run_query(spark: "SparkSession", schema: str, sql: str, *, timeout_s: float, max_rows: int) -> list[Row]:
    """Run one SELECT over a schema's tables and return its rows; dates, structs and maps come as text.

    Raises:
        QueryError: the query is wrong, is not a plain query, or passes a limit.
        OSError: Spark failed, not the query.
    """
    from py4j.protocol import Py4JError  # type: ignore[import-untyped]
    from pyspark.errors import PySparkException
    from pyspark.sql import DataFrame

    require_one_select(sql)
    inner: Any = spark._jsparkSession  # the parser and the plan have no other door
    tag = f"taolake-{uuid.uuid4().hex}"
    with _reading_from(spark, schema), _cancelled_after(spark, tag, timeout_s) as is_late:
        try:
            plan = inner.sessionState().sqlParser().parsePlan(sql)
            _require_plain(spark, plan, schema)
            frame = DataFrame(spark._jvm.org.apache.spark.sql.classic.Dataset.ofRows(inner, plan), spark)  # type: ignore[union-attr]
            rows = [tuple(map(_plain, row)) for row in frame.limit(max_rows + 1).collect()]
        except QueryError:
            raise
        except (PySparkException, Py4JError) as error:
            raise _fault(error, is_late.is_set()) from None
    if len(rows) > max_rows:
        raise QueryError(f"got more than {max_rows} rows; add a LIMIT or an aggregate")
    if sum(len(v) if isinstance(v, str | bytes | list) else 8 for row in rows for v in row) > MAX_RESULT_BYTES:
        raise QueryError(f"got a result over {MAX_RESULT_BYTES >> 20} MiB; select fewer or shorter columns")
    return rows


def _score(spark: "SparkSession", spec: SqlScorer, answer: str) -> Score:
    try:
        found = run_query(spark, spec.database, answer, timeout_s=spec.timeout_s, max_rows=spec.max_rows)
    except (QueryError, OSError) as error:
        return verdict(error, answer)
    return verdict(found, answer)


def _fault(error: Exception, is_late: bool) -> QueryError | OSError:
    """Whose fault a failure was: Spark's own errors are of class XX, those of a query of another SQL state."""
    if is_late:
        return QueryError("the query ran past its time limit", "timeout")
    state = getattr(error, "getSqlState", lambda: None)()
    first = str(error).strip().partition("\n")[0][:500]
    if state and not state.startswith("XX"):
        return QueryError(first)
    return OSError(f"{type(error).__name__}: {first}")


@contextlib.contextmanager
def _reading_from(spark: "SparkSession", schema: str) -> Iterator[None]:
    """The schema's tables by their bare names, and no path as a table; the session is as it was afterwards."""
    on_files = spark.conf.get("spark.sql.runSQLOnFiles")
    catalog, database = spark.catalog.currentCatalog(), spark.catalog.currentDatabase()
    *above, name = schema.split(".")
    if not spark.catalog.databaseExists(schema):
        raise ValueError(f"got schema {schema!r}, which is not in the catalog; set `database` to one that is")
    try:
        spark.conf.set("spark.sql.runSQLOnFiles", "false")
        if above:
            spark.catalog.setCurrentCatalog(".".join(above))
        spark.catalog.setCurrentDatabase(name)
        yield
    finally:
        spark.catalog.setCurrentCatalog(catalog)
        spark.catalog.setCurrentDatabase(database)
        spark.conf.set("spark.sql.runSQLOnFiles", str(on_files))


@contextlib.contextmanager
def _cancelled_after(spark: "SparkSession", tag: str, seconds: float) -> Iterator[threading.Event]:
    """Cancel the jobs started inside once time is up, and whatever jobs come after them; the event says that it was."""
    context, is_done, is_late = spark.sparkContext, threading.Event(), threading.Event()

    def watch() -> None:
        wait_s = seconds
        while not is_done.wait(wait_s):
            is_late.set()
            context.cancelJobsWithTag(tag)
            wait_s = _CANCEL_EVERY_S  # a job may start between two calls

    context.addJobTag(tag)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield is_late
    finally:
        is_done.set()
        watcher.join()
        context.removeJobTag(tag)


def _require_plain(spark: "SparkSession", plan: Any, schema: str) -> None:
    """Walk an unresolved plan, subqueries and common table expressions included."""
    from py4j.java_gateway import is_instance_of  # type: ignore[import-untyped]

    gateway = spark.sparkContext._gateway
    left = [plan]
    while left:
        node = left.pop()
        kind = node.getClass().getSimpleName().removesuffix("$")
        if is_instance_of(gateway, node, _LOGICAL):
            if kind not in _PLANS.split():
                raise QueryError(f"got {kind} in the query, wanted a plain SELECT")
            left += _items(node.expressions())
            _require_known(spark, node, kind, schema)
        elif kind == _IDENTIFIER_EXPRESSION:
            raise QueryError("got IDENTIFIER(...), wanted names written out")
        elif kind == "UnresolvedFunction":
            _require_harmless(spark, list(_items(node.nameParts())))
        elif is_instance_of(gateway, node, _WITH_PLAN):
            left.append(node.plan())
        left += [*_items(node.children()), *_items(node.innerChildren())]


def _require_known(spark: "SparkSession", node: Any, kind: str, schema: str) -> None:
    """A table must be of the schema, a table function Spark's own, a common table expression without recursion."""
    if kind == "UnresolvedRelation":
        parts = [str(part) for part in _items(node.multipartIdentifier())]
        above = schema.lower().split(".")
        before = [part.lower() for part in parts[:-1]]
        if before != above[len(above) - len(before) :]:
            raise QueryError(f"got table {'.'.join(parts)[:200]!r}, wanted one of schema {schema}")
        if not re.fullmatch(r"\w[\w $-]*", parts[-1]):
            raise QueryError(f"got table {parts[-1][:200]!r}, wanted a name")
    elif kind == "UnresolvedTableValuedFunction":
        _require_harmless(spark, list(_items(node.name())))
    elif kind == "UnresolvedWith" and node.allowRecursion():
        raise QueryError("got WITH RECURSIVE, wanted a query without recursion")


def _require_harmless(spark: "SparkSession", parts: list[Any]) -> None:
    """A function must be built into Spark, of a group without side effects, and not one that builds without bound."""
    name = str(parts[-1]).lower()
    if len(parts) > 1 or name in _UNBOUNDED:
        raise QueryError(f"got function {'.'.join(map(str, parts))[:100]!r}, which is not allowed here")
    jvm: Any = spark._jvm
    some, named = jvm.scala.Option.apply, jvm.org.apache.spark.sql.catalyst.FunctionIdentifier(name)
    identifier = named.copy(name, some("builtin"), some("system"))  # Spark's own, which come first when it resolves
    state = spark._jsparkSession.sessionState()
    for registry in (state.functionRegistry(), state.tableFunctionRegistry()):
        found = registry.lookupFunction(identifier)
        if found.isDefined():
            info = found.get()
            is_own = info.getSource() == "built-in" and info.getGroup() in _GROUPS.split()
            if is_own or name in _ALSO:
                return
            raise QueryError(f"got function {name!r}, which is not allowed here")
    raise QueryError(f"got function {name[:100]!r}, which is not one of Spark's own")


def _items(seq: Any) -> list[Any]:
    return [seq.apply(i) for i in range(seq.size())]


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | float() | str() | Decimal():
            return value
        case bytes() | bytearray():
            return bytes(value)
        case datetime.datetime():
            return value.isoformat(" ")
        case list():
            return [_plain(item) for item in value]
    return str(value)
