"""Collect: logs of production, whatever their shape, become `inference_log` and `feedback`, without personal data.

No stage of a round: it runs before one, as often as one likes. By stream (the default) it reads what came since last
time, and its cost grows with that; by batch it reads everything there is. Both give the same tables. In = kept + folded
+ quarantined, asserted in every batch. Not here: what a shape looks like (`taolake.curation.logs`), what is taken out
(`taolake.curation.redact`), prompts (`ingest`).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from taolake import databricks, ids, lake
from taolake.config import Collect, Log, Project
from taolake.curation import logs
from taolake.curation.calls import Call, Found, Reaction
from taolake.curation.redact import Redactor, redactor, require
from taolake.lake import Table
from taolake.serving.steps import log_prefix
from taolake.stages.fanout import Row, map_rows
from taolake.stages.round import Outcome, Round

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_ENTRIES = f"""kind STRING, id STRING, place INT, source STRING, reason STRING, excerpt STRING,
               call STRUCT<{lake.INFERENCE_LOG.columns}>, reactions ARRAY<STRUCT<{lake.FEEDBACK.columns}>>"""
_BATCH = str(256 * 2**20)  # bytes read at once by a stream: what bounds its memory
_EXCERPT = 200
_LOOKED_AT = 2_000  # characters of a refused row that are searched before it is cut: a cut value is not recognised
_MLFLOW = "mlflow:"
_NAMES, _ENTITY = "system.serving.served_entities", "served_entity_id"
# Of several rows with one id the same one stays, in whatever order they come: one with an answer, the first by name;
# of several words of one person on one answer the last.
_CALLS = "struct({0}answer IS NULL, {0}source)"
_WORDS = "struct({0}at IS NULL, -unix_micros({0}at), {0}value, {0}text)"


def collect(round_: Round, stream: bool = True) -> Outcome:
    """Read `payloads` and `reactions`, what the project's endpoint logged, and every log of the project file.

    Args:
        round_: says the project; the round's number does not matter.
        stream: read what came since the last stream; else everything, which adds only what is not there yet.

    Returns:
        Rows added; lines read, entries found in them, and what became of those, in its detail.

    Raises:
        ValueError: the model that finds names is not installed.
    """
    require(round_.project.collect.names)
    counts: Counter[str] = Counter()
    known = _size(round_)
    for table in (lake.PAYLOADS, lake.REACTIONS):
        if not round_.lake.version(table):  # nothing was ever served
            continue
        rows = _as_lines(table.name, round_.lake.stream(table) if stream else round_.lake.read(table))
        counts += _taken(round_, table.name, rows)
    for log in (*_endpoint(round_), *round_.project.collect.sources):
        streamed = stream and not log.path.startswith(_MLFLOW)
        counts += _taken(round_, log.path, _lines(round_, log, streamed))
    detail = {name: counts[name] for name in ("lines", "in", "kept", "folded", "quarantined", "feedback")}
    return Outcome(_size(round_) - known, 0, detail)


def _size(round_: Round) -> int:
    return sum(round_.lake.read(table).count() for table in (lake.INFERENCE_LOG, lake.FEEDBACK))


def _taken(round_: Round, name: str, rows: "DataFrame") -> Counter[str]:
    """Take in a source's rows; a stream's in batches that end where the source ends now."""
    counts: Counter[str] = Counter()
    if not rows.isStreaming:
        return take(round_, rows)

    def batch(some: "DataFrame", _: int) -> None:
        counts.update(take(round_, some))

    # A batch that was taken in and not checked off is taken in again: every way of writing here may be repeated.
    checkpoint = Path(round_.project.work) / "collect" / ids.content_hash(round_.lake.location, name)[:12]
    query = rows.writeStream.foreachBatch(batch).option("checkpointLocation", str(checkpoint))
    query.trigger(availableNow=True).start().awaitTermination()
    return counts


def take(round_: Round, rows: "DataFrame") -> Counter[str]:
    """Take in rows of (source, line) and write the three tables; returns what became of the rows."""
    from pyspark.sql import functions as f

    entries = map_rows(rows, _ENTRIES, reader(round_.project)).persist()
    try:
        counts = _counts(rows, entries)
        calls = entries.where("kind = 'call'").select("call.*")
        if counts["calls"]:
            round_.lake.fold_in(lake.INFERENCE_LOG, *_first(calls, lake.INFERENCE_LOG, _CALLS), "logged_at")
        if counts["feedback"]:
            said = entries.select(f.explode("reactions").alias("said")).select("said.*")
            round_.lake.fold_in(lake.FEEDBACK, *_first(said, lake.FEEDBACK, _WORDS), "at")
        if counts["quarantined"]:
            refused = entries.where("kind = 'refused'").dropDuplicates(["source"])
            place = f.lit("collect").alias("stage"), f.col("source").alias("source_id")
            round_.lake.insert_new(lake.QUARANTINE, refused.select(*place, "reason", "excerpt"))
    finally:
        entries.unpersist()
    return counts


def _first(rows: "DataFrame", table: Table, order: str) -> tuple["DataFrame", str]:
    """One row a key, the first in an order; and the same order as SQL between an old row of the table and a new one."""
    from pyspark.sql import functions as f

    one = f.min_by(f.struct(*table.schema().names), f.expr(order.format(""))).alias("row")
    better = f"{order.format('new.')} < {order.format('old.')}"
    return rows.groupBy(*table.key).agg(one).select("row.*"), better


def _counts(rows: "DataFrame", entries: "DataFrame") -> Counter[str]:
    """Account for every line, and for every entry found in one.

    Raises:
        AssertionError: a line gave no entry, or an entry is neither kept nor folded nor quarantined.
    """
    from pyspark.sql import functions as f

    lines = rows.count()
    counted = (
        f.count("*").alias("n"),
        f.expr("sum(int(place = 0))").alias("lines"),
        f.sum(f.size("reactions")).alias("said"),
    )
    alike = entries.groupBy("kind", "id").agg(*counted)
    sums = f.count("*").alias("ids"), *(f.sum(name).alias(name) for name in ("n", "lines", "said"))
    found = {row["kind"]: row.asDict() for row in alike.groupBy("kind").agg(*sums).collect()}
    ids_of = {kind: row["ids"] for kind, row in found.items()}
    total = {name: sum(row[name] for row in found.values()) for name in ("n", "lines", "said")}
    refused = ids_of.get("refused", 0)
    kept, folded = sum(ids_of.values()) - refused, sum(row["n"] - row["ids"] for row in found.values())
    if lines != total["lines"] or entries.count() != kept + folded + refused:
        raise AssertionError(
            f"collect lost rows: {lines} lines in, {total['lines']} read; {total['n']} entries, {kept} kept, "
            f"{folded} folded, {refused} quarantined"
        )
    counts = {"lines": lines, "in": total["n"], "kept": kept, "folded": folded, "quarantined": refused}
    return Counter(counts | {"calls": ids_of.get("call", 0), "feedback": total["said"]})


def reader(project: Project) -> Callable[[Iterator[Row]], Iterator[Row]]:
    """(source, line) in, entries without personal data out."""
    spec, task = project.collect, project.task.name

    def read(rows: Iterator[Row]) -> Iterator[Row]:
        clean = redactor(spec.names)
        for row in rows:
            yield from entries(row["source"], row["line"] or b"", task, spec, clean)

    return read


def entries(where: str, line: bytes, task: str, spec: Collect, clean: Redactor) -> Iterator[Row]:
    """What one row of a log holds, each entry with its kind and id; a row is named by its content.

    Another reading, by stream or by batch, then finds the same name.
    """
    named = f"{where}#{hashlib.sha256(line).hexdigest()[:16]}"
    for place, found in enumerate(logs.read(line, spec.max_chars)):
        source = f"{named}/{place}" if place else named
        blank: Row = {"place": place, "source": source, "reason": None, "excerpt": None, "call": None, "reactions": []}
        match redacted(found, clean):
            case Call() as call:
                row = call.row(task, source, spec.retention_days)
                said = {"call": row, "reactions": [reaction.row() for reaction in call.reactions]}
                yield blank | {"kind": "call", "id": row["request_id"]} | said
            case Reaction() as reaction:
                row = reaction.row()
                yield blank | {"kind": "reaction", "id": f"{row['request_id']}/{row['source']}", "reactions": [row]}
            case reason:
                start = line[:_LOOKED_AT].decode("utf-8", errors="replace")
                excerpt = (clean.redact([start])[0] or "")[:_EXCERPT]
                yield blank | {"kind": "refused", "id": source, "reason": reason, "excerpt": excerpt}


def redacted(found: Found, clean: Redactor) -> Found:
    """The same without personal data: one placeholder a value throughout the conversation and what was said of it."""
    match found:
        case Call():
            texts = [*(m["content"] for m in found.messages), found.answer, *(r.text for r in found.reactions)]
            done = iter(clean.redact(texts))
            messages = tuple({**m, "content": next(done) or ""} for m in found.messages)
            answer = next(done)
            reactions = tuple(replace(r, text=next(done)) for r in found.reactions)
            return replace(found, messages=messages, answer=answer, reactions=reactions)
        case Reaction():
            return replace(found, text=clean.redact([found.text])[0])
    return clean.redact([found])[0] or ""


def _endpoint(round_: Round) -> list[Log]:
    """The table that the project's endpoint on Databricks writes, once it is there."""
    serve, place = round_.project.serve, round_.lake
    if not (place.in_catalog and serve.endpoint and serve.inference_table):
        return []
    name = f"{place.location}.{log_prefix(serve.endpoint)}_payload"
    return [Log(path=name, format="delta")] if place.spark.catalog.tableExists(name) else []


def _lines(round_: Round, log: Log, stream: bool) -> "DataFrame":
    """A log's rows as (source, line)."""
    from pyspark.sql import functions as f

    spark = round_.lake.spark
    if log.path.startswith(_MLFLOW):
        return _traces(round_, log.path)
    opened = spark.readStream if stream else spark.read
    if log.format == "delta":
        opened = opened.format("delta").option("skipChangeCommits", "true").option("maxBytesPerTrigger", _BATCH)
        return _as_lines(log.path, _named(opened.load(log.path) if "/" in log.path else opened.table(log.path)))
    text = opened.option("maxBytesPerTrigger", _BATCH).text(log.path)
    return text.select(f.lit(log.path).alias("source"), f.col("value").cast("binary").alias("line"))


def _named(rows: "DataFrame") -> "DataFrame":
    """Rows of a payload table with the name of what answered, by which a canary knows its versions: it has an id alone.

    Where the platform's table of names may not be read, the id stays.
    """
    place = rows.sparkSession
    if not (databricks.here() and _ENTITY in rows.columns and place.catalog.tableExists(_NAMES)):
        return rows
    names = place.table(_NAMES).select(_ENTITY, "served_entity_name").dropDuplicates([_ENTITY])
    return rows.join(names, _ENTITY, "left")


def _as_lines(name: str, rows: "DataFrame") -> "DataFrame":
    from pyspark.sql import functions as f

    return rows.select(f.lit(name).alias("source"), f.to_json(f.struct("*")).cast("binary").alias("line"))


def _traces(round_: Round, source: str) -> "DataFrame":
    """Traces of an MLflow experiment of the project's store."""
    from taolake.stages.registry import traces

    found = [(source, json.dumps(trace.to_dict()).encode()) for trace in traces(round_.project, source)]
    return round_.lake.spark.createDataFrame(found, "source STRING, line BINARY")
