"""Monitor: what production answers look like, per window and model version, and what of it alarms.

Not one of the stages of a round: it reads what is logged, whenever it is asked. A cell, one window of one version, is
measured again when requests or reactions came to it, or when what it is measured by changed; the number `settings`
among its metrics tells. Not here: what is measured (`measure`), the page (`taolake.report.monitor`).
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from taolake import ids, lake
from taolake.stages import measure, observe
from taolake.stages.measure import Cell
from taolake.stages.round import Outcome, Round
from taolake.watch.rules import Measurement, fired

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SETTINGS = "settings"
_TOLD = 50  # newest alerts that are told; all are in the table
_DIGITS = 13  # hex digits of a hash that a double holds exactly


def monitor(round_: Round) -> Outcome:
    """Measure the cells that are new or changed, and write them."""
    rows = observe.requests(round_)
    counts = _counts(round_, rows)
    if not counts:
        return Outcome(0, 0, {"requests": 0, "windows": 0, "measured": 0, "alerts": []})
    reference = _reference(round_, counts)
    wanted = _settings(round_, counts, reference)
    known = _known(round_)
    todo = sorted(cell for cell, number in wanted.items() if known.get(cell, {}).get(SETTINGS) != number)
    detail: dict[str, Any] = {
        "requests": sum(n for n, _ in counts.values()),
        "windows": len({window for window, _ in counts}),
        "versions": len({model for _, model in counts}),
        "measured": len(todo),
    }
    if not todo:
        return Outcome(0, 0, detail | {"scored": 0, "alerts": []})
    some = _only(rows, todo, reference)
    scored = observe.score(round_, some)
    facts = observe.facts(round_, some).persist()
    try:
        found = measure.measure(round_, facts, some, reference)
    finally:
        facts.unpersist()
    made, alerts = _rows(round_, {cell: found[cell] for cell in todo}, wanted, known)
    round_.lake.merge(lake.MONITORS, round_.lake.spark.createDataFrame(made, lake.MONITORS.schema()))
    return Outcome(len(made), 0, detail | {"scored": scored, "alarms": len(alerts), "alerts": alerts[-_TOLD:]})


def _counts(round_: Round, rows: "DataFrame") -> dict[Cell, tuple[int, int]]:
    """Requests and reactions of every cell, from the narrow columns alone."""
    from pyspark.sql import functions as f

    said = round_.lake.read(lake.FEEDBACK).groupBy("request_id").count().withColumnRenamed("count", "said")
    narrow = rows.select("window", "model", "request_id").join(said, "request_id", "left").groupBy("window", "model")
    counted = narrow.agg(f.count(f.lit(1)).alias("n"), f.coalesce(f.sum("said"), f.lit(0)).alias("said")).collect()
    return {(row["window"], row["model"]): (row["n"], row["said"]) for row in counted}


def _reference(round_: Round, counts: Mapping[Cell, Any]) -> int:
    """The window that others are held against.

    Raises:
        ValueError: the project names a day on which nothing was logged.
    """
    spec, windows = round_.project.monitor, sorted({window for window, _ in counts})
    if spec.reference is None:
        return windows[0]
    day = int(datetime.fromisoformat(spec.reference).replace(tzinfo=UTC).timestamp())
    named = [window for window in windows if window <= day < window + 3600 * spec.window_hours]
    named += [window for window in windows if day <= window < day + 86400]
    if not named:
        raise ValueError(
            f"got monitor.reference {spec.reference}, wanted a day with requests: the log begins "
            f"{_utc(windows[0]):%Y-%m-%d} and ends {_utc(windows[-1]):%Y-%m-%d}"
        )
    return named[0]


def _settings(round_: Round, counts: Mapping[Cell, tuple[int, int]], reference: int) -> dict[Cell, float]:
    """Of every cell the number that identifies what it is measured by and of; exact in a double."""
    spec = round_.project.monitor.model_dump(mode="json")
    before = sum(n for (window, _), (n, _) in counts.items() if window == reference)
    shared = ids.content_hash(spec, sorted(observe.versions(round_).items()), reference, before)
    return {cell: float(int(ids.content_hash(shared, *counted)[:_DIGITS], 16)) for cell, counted in counts.items()}


def _known(round_: Round) -> dict[Cell, dict[str, float | None]]:
    """What the table has, by cell and metric."""
    from pyspark.sql import functions as f

    start = f.col("window_start").cast("double").cast("bigint").alias("window")
    found: dict[Cell, dict[str, float | None]] = {}
    for row in round_.lake.read(lake.MONITORS).select(start, "model", "metric", "value").collect():
        found.setdefault((row["window"], row["model"]), {})[row["metric"]] = row["value"]
    return found


def _only(rows: "DataFrame", cells: list[Cell], reference: int) -> "DataFrame":
    """Requests of these cells and of the reference window."""
    from pyspark.sql import functions as f

    listed = rows.sparkSession.createDataFrame(cells, "window BIGINT, model STRING").withColumn("wanted", f.lit(True))
    marked = rows.join(f.broadcast(listed), ["window", "model"], "left")
    return marked.where(f.col("wanted") | (f.col("window") == reference)).drop("wanted")


def _rows(
    round_: Round,
    found: Mapping[Cell, list[Measurement]],
    wanted: Mapping[Cell, float],
    known: Mapping[Cell, dict[str, float | None]],
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of `monitors`, each with the rules that fired; and those once more, in order."""
    spec, made, alerts = round_.project.monitor, [], list[str]()
    latest = dict(known)
    for (window, model), some in sorted(found.items()):
        earlier = max((cell for cell in latest if cell[1] == model and cell[0] < window), default=(0, ""))
        before = latest.get(earlier, {})
        settings = Measurement(SETTINGS, wanted[window, model], None, None, 0)
        for each in [*some, settings]:
            alert = fired(each, spec.rules, before) if each.metric != SETTINGS else ""
            alerts += [f"{_utc(window):%Y-%m-%d %H:%M} {model}: {alert}"] if alert else []
            made.append(_row(window, spec.window_hours, model, each, alert))
        latest[window, model] = measure.values(found, (window, model))
    return made, alerts


def _row(window: int, hours: int, model: str, each: Measurement, alert: str) -> dict[str, Any]:
    ends = {name: _finite(value) for name, value in (("value", each.value), ("low", each.low), ("high", each.high))}
    span = {"window_start": _utc(window), "window_end": _utc(window + 3600 * hours)}
    return {**span, "model": model, "metric": each.metric, **ends, "n": each.n, "alert": alert}


def _finite(value: float | None) -> float | None:
    """An end that lies nowhere is not known."""
    return value if value is not None and math.isfinite(value) else None


def _utc(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)
