"""Forgetting a person: their rows go from every table, their words from every file, older versions cannot be read.

A prompt that others asked too stays, without their share in it. Models are not changed: which versions had learned from
the rows is said and recorded. What is to go is written down first, so that a killed run, started again, goes on; that
file goes last. Nothing else may write the tables meanwhile (`taolake.lake.purge`). Not here: whose rows those are
(`trace`).
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taolake import ids, lake
from taolake.curation.needles import Needles, scan, scrubbed
from taolake.lake import Lake, purge
from taolake.lineage import learned
from taolake.stages import learned as lineages
from taolake.stages import trace as traces
from taolake.stages import workfiles
from taolake.stages.fanout import Row, map_rows
from taolake.stages.round import Round
from taolake.stages.trace import Trace
from taolake.training.job import write_atomic

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_FOLDER = "forget"


@dataclass(frozen=True)
class Plan:
    """What will go, and what it touches.

    Attributes:
        erasure: drawn anew; what the record is called.
        trace: what is theirs.
        rows: rows to delete, by table.
        models: registered versions that learned from it.
        rounds: rounds whose selections have rows of it.
        files: work files and pages that hold any of it.
    """

    erasure: str
    trace: Trace
    rows: dict[str, int]
    models: list[str]
    rounds: list[int]
    files: list[str]

    def __bool__(self) -> bool:
        return bool(self.rows or self.files)


@dataclass(frozen=True)
class Done:
    """What was done: the plan, what still holds a value, and the project's own sources that do."""

    plan: Plan
    left: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)


def plan(round_: Round, name: str, pages: Sequence[Path] = ()) -> Plan:
    """What `forget` would do; what a killed run had begun is part of it. Nothing is written.

    Args:
        round_: its lake and its project; the number does not count.
        name: as the log has it.
        pages: folders of reports; the project's work folder is always searched.
    """
    trace, before = traces.find(round_.lake, name), _begun(round_, name)
    if before is not None:
        trace = before.trace.merged(trace)
    counted = traces.counts(round_.lake, trace)
    if quoted := len(_refused(round_.lake, trace.needles())):
        counted[lake.QUARANTINE.name] = quoted
    if quoted := len(_quoting(round_.lake, trace.needles())):
        counted[lake.ROUNDS.name] = quoted
    hit = lineages.selections(round_.lake, trace.gone) if trace.gone else set()
    taught = lineages.tastes(round_.project, trace.gone, trace.people)
    models = [v.label for v in learned(lineages.versions(round_.project), hit, taught)] if hit or taught else []
    files = [str(path) for path in scan(_searched(round_, pages), trace.needles()) if not _is_plan(round_, path)]
    rounds = sorted({number for number, _ in hit})
    if before is None:
        return Plan(uuid.uuid4().hex, trace, counted, models, rounds, files)
    return Plan(
        before.erasure,
        trace,
        {name: max(before.rows.get(name, 0), counted.get(name, 0)) for name in {**before.rows, **counted}},
        sorted({*before.models, *models}),
        sorted({*before.rounds, *rounds}),
        sorted({*before.files, *files}),
    )


def forget(round_: Round, name: str, pages: Sequence[Path] = ()) -> Done:
    """Forget a person; a second call finds nothing to do.

    Args:
        round_: its lake and its project; the number does not count.
        name: as the log has it.
        pages: folders of reports; the project's work folder is always searched.
    """
    made = plan(round_, name, pages)
    needles = made.trace.needles()
    if made:
        file = _file(round_, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps({**asdict(made), "trace": made.trace.to_json()}))
        _delete(round_.lake, made.trace)
        workfiles.clean(Path(round_.project.work), pages, needles, [file])
        floors = _purge(round_.lake, made, needles)
        _record(round_.lake, made, floors)
    left = [str(path) for path in proof(round_, pages, needles)]
    if made and round_.lake.in_catalog:
        left += [f"table {table}: {rows} rows" for table, rows in traces.counts(round_.lake, made.trace).items()]
    if made and not left:
        _file(round_, name).unlink()
    return Done(made, left, _sources(round_, needles))


def proof(round_: Round, pages: Sequence[Path], needles: Needles) -> list[Path]:
    """Every file below the tables, the work folder and the pages that still holds a value; wanted: none.

    In a catalog the tables' files are not ours to open; there the tables are asked again (`trace.counts`).
    """
    folders = _searched(round_, pages) + ([] if round_.lake.in_catalog else [Path(round_.lake.location)])
    return [path for path in scan(folders, needles) if not _is_plan(round_, path)]


def _delete(lake_: Lake, trace: Trace) -> None:
    """Delete the rows, in the order of the rules; prompts that stay lose this person's share."""
    _unquote(lake_, trace.needles())
    for table, (column, values) in traces.rules_met(lake_, trace):
        wanted = [(value,) for value in sorted(getattr(trace, values))]
        lake_.delete(table, lake_.spark.createDataFrame(wanted, f"{column} STRING"))
    if trace.shared:
        lake_.merge(lake.PROMPTS, _without_share(lake_, trace))


def _without_share(lake_: Lake, trace: Trace) -> "DataFrame":
    """Shared prompts as the others asked them: first source, first request, times seen."""
    from pyspark.sql import functions as f

    left = lineages.among(lake_, lake_.read(lake.ASKED), "prompt_id", trace.shared)
    first = f.min(f.struct("source", "request_id")).alias("first")
    told = left.groupBy("prompt_id").agg(first, f.sum("times").alias("seen"))
    prompts = lake_.read(lake.PROMPTS).drop("seen", "source", "request_id").join(told, "prompt_id")
    # The source stands for a request that the log did not name; `prompts` leaves that empty.
    request = f.when(f.col("first.request_id") == f.col("first.source"), "").otherwise(f.col("first.request_id"))
    return prompts.select("*", f.col("first.source").alias("source"), request.alias("request_id")).drop("first")


def _unquote(lake_: Lake, needles: Needles) -> None:
    """Take refused lines that hold a value out of `quarantine`, and the values out of what `rounds` says."""
    if refused := _refused(lake_, needles):
        lake_.delete(lake.QUARANTINE, lake_.spark.createDataFrame(refused, "stage STRING, source_id STRING"))
    if quoting := _quoting(lake_, needles):
        lake_.merge(lake.ROUNDS, lake_.spark.createDataFrame(quoting, lake.ROUNDS.schema()))


def _refused(lake_: Lake, needles: Needles) -> list[tuple[str, str]]:
    """Keys of refused lines that hold a value."""
    if not lake_.exists(lake.QUARANTINE):
        return []

    def hit(rows: Any) -> Any:
        return (
            {"stage": row["stage"], "source_id": row["source_id"]}
            for row in rows
            if needles.hit("\n".join(str(value) for value in row.values()))
        )

    found = map_rows(lake_.read(lake.QUARANTINE), "stage STRING, source_id STRING", hit).collect()
    return sorted((row["stage"], row["source_id"]) for row in found)


def _quoting(lake_: Lake, needles: Needles) -> list[Row]:
    """Rows of `rounds` whose detail quotes a value, with a mark in its place."""
    if not lake_.exists(lake.ROUNDS):
        return []
    rows = [row.asDict() for row in lake_.read(lake.ROUNDS).collect()]
    hit = [row for row in rows if needles.hit(row["detail"] or "")]
    return [row | {"detail": json.dumps(scrubbed(json.loads(row["detail"]), needles), sort_keys=True)} for row in hit]


def _purge(lake_: Lake, made: Plan, needles: Needles) -> dict[str, int]:
    """End older versions of the tables that hold a value, in rows or in the log; the oldest that is left of each."""
    if lake_.in_catalog:
        touched = {*made.rows, *([lake.PROMPTS.name] if made.trace.shared else [])}
    else:
        root = Path(lake_.location)
        touched = {path.relative_to(root).parts[0] for path in scan([root], needles)}
    known = {table.name: table for table in lake.TABLES}
    return {name: purge.purge(lake_, known[name]) for name in sorted(touched) if name in known}


def _record(lake_: Lake, made: Plan, floors: dict[str, int]) -> None:
    """That it was done, without the name; of a run that goes on, the tables it had purged before stay on record."""
    from pyspark.sql import functions as f

    row = lake_.read(lake.ERASURES).where(f.col("erasure") == made.erasure).first()
    floors = {**(row["floors"] if row else {}), **floors}
    record = (
        made.erasure, datetime.now(UTC), len(made.trace.gone), len(made.trace.shared), made.rows, len(made.files),
        made.models, made.rounds, floors,
    )  # fmt: skip
    lake_.merge(lake.ERASURES, lake_.spark.createDataFrame([record], lake.ERASURES.schema()))


def _sources(round_: Round, needles: Needles) -> list[str]:
    """Files that the project reads its prompts from and that hold a value: the next ingest would bring it back."""
    paths = [Path(source.path) for source in round_.project.ingest.sources]
    found = [scan([path], needles) if path.is_dir() else _of_file(path, needles) for path in paths if path.exists()]
    return sorted({str(path) for hits in found for path in hits})


def _of_file(path: Path, needles: Needles) -> list[Path]:
    from taolake.curation.needles import blobs

    return [path] if any(needles.found(blob) for blob in blobs(path)) else []


def _searched(round_: Round, pages: Sequence[Path]) -> list[Path]:
    return [Path(round_.project.work), *pages]


def _file(round_: Round, name: str) -> Path:
    return Path(round_.project.work) / _FOLDER / f"{ids.content_hash('forget', name)}.json"


def _is_plan(round_: Round, path: Path) -> bool:
    return path.parent == Path(round_.project.work) / _FOLDER


def _begun(round_: Round, name: str) -> Plan | None:
    """What a killed run had written down."""
    file = _file(round_, name)
    if not file.exists():
        return None
    stored = json.loads(file.read_text(encoding="utf-8"))
    return Plan(**{**stored, "trace": Trace.from_json(stored["trace"])})
