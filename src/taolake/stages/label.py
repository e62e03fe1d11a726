"""Label: what people chose among answers becomes rows of `preferences`; this stage is their only writer.

Choices come in by `import_choices`, from files, tables or MLflow, from reactions in production (`reactions`), or from
a project's reviewer function, which stands in for people (the embedded example simulates one). The prompts a reviewer
sees are never trained on, and the prompts trained on are never seen by it. In = kept + folded + refused, asserted in
every import.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from taolake import lake
from taolake.config import Project, RewardModelScorer, Source
from taolake.curation import assessments, choices
from taolake.curation.judged import Answer
from taolake.scoring.function import load_function
from taolake.stages import ingest, reactions
from taolake.stages.fanout import Row, map_rows
from taolake.stages.round import Outcome, Round

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# Pairs (chosen, rejected), or whole choices (chosen, all the others that were shown), as positions among the answers.
Reviewed = Sequence[tuple[int, int] | tuple[int, Sequence[int]]]
Reviewer = Callable[[Project, str, Sequence[str]], Reviewed]

_MLFLOW = "mlflow:"
_LINES = "source STRING, line BINARY, reason STRING"
_READ = "source STRING, unit STRING, record STRING, reason STRING, excerpt STRING"
_SAID = f"{_READ}, state STRING, rows ARRAY<STRUCT<{lake.PREFERENCES.columns}>>"


def label(round_: Round) -> Outcome:
    """Ask the reviewer about every review prompt that has no choice of theirs yet, and learn what production said."""
    target = next((s.reviewer for s in round_.project.scorers if isinstance(s, RewardModelScorer) and s.reviewer), None)
    said = _react(round_)
    if target is None:
        known = round_.lake.read(lake.PREFERENCES).count()
        return Outcome(said.pop("rows", 0), 0, {"annotator": "people", "pairs": known, **said})
    before = round_.lake.read(lake.PREFERENCES).count()
    rows = _ask(round_, target)
    round_.lake.insert_new(lake.PREFERENCES, round_.lake.spark.createDataFrame(rows, lake.PREFERENCES.schema()))
    after = round_.lake.read(lake.PREFERENCES).count()
    asked = len({row["prompt_id"] for row in rows})
    written = after - before + said.pop("rows", 0)
    return Outcome(written, 0, {"annotator": target, "pairs": after, "prompts": asked, **said})


def _react(round_: Round) -> dict[str, Any]:
    """Add what reactions in production say; how many there were, and how many rows are new."""
    if not reactions.logged(round_):
        return {}
    found = reactions.learned(round_).persist()
    before = round_.lake.read(lake.PREFERENCES).count()
    round_.lake.insert_new(lake.PREFERENCES, _rows(round_, found).drop("unit"))
    counts = reactions.counts(found)
    found.unpersist()
    return {"rows": round_.lake.read(lake.PREFERENCES).count() - before, **counts}


def _ask(round_: Round, target: str) -> list[Row]:
    reviewer: Reviewer = load_function(target)
    rows: list[Row] = []
    groups = _groups(round_).collect()
    with round_.progress("label", len(groups)) as bar:
        for group in groups:
            answers = sorted(group["answers"], key=lambda a: a["candidate_id"])
            reviewed = reviewer(round_.project, group["messages"][-1]["content"], [a["text"] for a in answers])
            shown = [Answer(a["candidate_id"], a["text"]) for a in answers]
            messages = json.dumps([m.asDict() for m in group["messages"]], ensure_ascii=False)
            about = (group["prompt_id"], round_.project.task.name, target, messages)
            rows += [row for chosen, others in reviewed for row in _reviewed(about, shown, chosen, others)]
            bar.add(1)
    return rows


def _reviewed(
    about: tuple[str, str, str, str], shown: Sequence[Answer], chosen: int, others: int | Sequence[int]
) -> list[Row]:
    """Rows of one thing the reviewer said."""
    prompt, task, annotator, messages = about
    kind, worse = ("pair", [others]) if isinstance(others, int) else ("best_of", list(others))
    answers = tuple(shown[position] for position in (chosen, *worse))
    levels = (1.0, *(0.0 for _ in worse))
    record = choices.Record("", kind, prompt, task, annotator, messages, answers, levels, 1.0)
    return choices.choose([record]).rows


def _groups(round_: Round) -> "DataFrame":
    """Review prompts with the base policy's distinct answers."""
    from pyspark.sql import functions as f

    ours = (f.col("task") == round_.project.task.name) & (f.col("split") == "review")
    prompts = round_.lake.read(lake.PROMPTS).where(ours)
    mine = (f.col("policy") == round_.base.id) & (f.col("stream") == "A") & f.col("text").isNotNull()
    distinct = round_.lake.read(lake.CANDIDATES).where(mine).groupBy("prompt_id", "text")
    answers = distinct.agg(f.min("candidate_id").alias("candidate_id"))
    joined = answers.join(prompts.select("prompt_id", "messages"), "prompt_id")
    return joined.groupBy("prompt_id", "messages").agg(
        f.collect_list(f.struct("candidate_id", "text")).alias("answers")
    )


def import_choices(round_: Round, source: str, scale: tuple[float, float] = (1, 5)) -> Outcome:
    """Import people's choices; importing the same ones again adds nothing.

    Args:
        round_: says the task, and where the tables are.
        source: a file or folder (`.jsonl`, `.json`, `.csv`, `.parquet`), a Delta table (folder or name), or
            `mlflow:<experiment>` for people's assessments on the traces of an experiment of the project's MLflow store.
        scale: lowest and highest rating of assessments that do not say it themselves.

    Returns:
        Rows written; `in`, `kept`, `folded` and `refused` records, and `pairs` in the table, in its detail.

    Raises:
        AssertionError: a record is neither kept nor folded nor refused.
        ValueError: MLflow knows no such experiment.
    """
    from pyspark.sql import functions as f

    lines = _assessed(round_, source, scale) if source.startswith(_MLFLOW) else _filed(round_, source)
    said = _said(round_, lines).persist()
    try:
        rows = _rows(round_, said).persist()
        counts = _counts(lines, said, rows)
        before = round_.lake.read(lake.PREFERENCES).count()
        round_.lake.insert_new(lake.PREFERENCES, rows.drop("unit"))
        refused = said.where("state = 'refused'").dropDuplicates(["source"])
        place = f.lit("label").alias("stage"), f.col("source").alias("source_id")
        round_.lake.insert_new(lake.QUARANTINE, refused.select(*place, "reason", "excerpt"))
        rows.unpersist()
    finally:
        said.unpersist()
    after = round_.lake.read(lake.PREFERENCES).count()
    return Outcome(after - before, 0, {"source": source, **counts, "pairs": after})


def _filed(round_: Round, path: str) -> "DataFrame":
    """Records of a file, a folder or a table, as (source, line, reason)."""
    from pyspark.sql import functions as f

    suffix = path.rpartition(".")[2]
    known: dict[str, Any] = {"json": "jsonl", "jsonl": "jsonl", "csv": "csv", "parquet": "parquet"}
    lines = ingest.lines(round_, Source(format=known.get(suffix, "delta"), path=path))
    return lines.select("source", "line", f.lit(None).cast("string").alias("reason"))


def _assessed(round_: Round, source: str, scale: tuple[float, float]) -> "DataFrame":
    """Assessments on an MLflow experiment's traces, as (source, line, reason)."""
    from taolake.stages.registry import traces

    found = [
        entry for trace in traces(round_.project, source) for entry in assessments.records(trace.to_dict(), *scale)
    ]
    rows = [
        (f"{source}/{place}", None, record)
        if isinstance(record, str)
        else (f"{source}/{place}", json.dumps(record, ensure_ascii=False).encode(), None)
        for place, record in found
    ]
    return round_.lake.spark.createDataFrame(rows, _LINES)


def _said(round_: Round, lines: "DataFrame") -> "DataFrame":
    """Every record with its state: `ok`, `folded` into an equal one, or `refused`; a unit's rows are at its first."""
    from pyspark.sql import functions as f

    task, spec = round_.project.task.name, round_.project.ingest

    def read(rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            line = row["line"] or b""
            record = row["reason"] or choices.read(line, row["source"], task, spec.system, spec.max_prompt_chars)
            shared = {"source": row["source"], "excerpt": line[:200].decode("utf-8", errors="replace")}
            if isinstance(record, str):
                yield shared | {"unit": row["source"], "record": None, "reason": record}
            else:
                yield shared | {"unit": record.unit, "record": choices.to_json(record), "reason": None}

    def choose(units: Iterator[Row]) -> Iterator[Row]:
        for unit in units:
            members = sorted(unit["members"], key=lambda m: m["source"])
            if members[0]["record"] is None:
                yield from ({"state": "refused", "rows": [], "unit": unit["unit"], **m} for m in members)
                continue
            made = choices.choose([choices.from_json(m["record"]) for m in members])
            for place, member in enumerate(members):
                state = "refused" if place in made.refused else "folded" if place in made.folded else "ok"
                verdict = {"unit": unit["unit"], "state": state, "reason": made.refused.get(place)}
                yield member | verdict | {"rows": [] if place else made.rows}

    members = f.collect_list(f.struct("source", "record", "reason", "excerpt")).alias("members")
    units = map_rows(lines, _READ, read).groupBy("unit").agg(members)
    return map_rows(units, _SAID, choose)


def _rows(round_: Round, said: "DataFrame") -> "DataFrame":
    """Rows that are not in the table yet, each once, with the unit it came from; our own candidates get their ids."""
    from pyspark.sql import Window
    from pyspark.sql import functions as f

    rows = said.select("unit", f.explode("rows").alias("row")).select("unit", "row.*")
    candidates = round_.lake.read(lake.CANDIDATES).where(f.col("text").isNotNull()).groupBy("prompt_id", "text")
    ours = candidates.agg(f.min("candidate_id").alias("first"), f.collect_set("candidate_id").alias("all"))
    for side in ("chosen", "rejected"):
        named = ours.withColumnRenamed("text", f"{side}_text")
        found = rows.join(named, ["prompt_id", f"{side}_text"], "left")
        given = f.when(f.array_contains("all", f.col(side)), f.col(side))
        rows = found.withColumn(side, f.coalesce(given, "first", f.col(side))).drop("first", "all")
    same = ["prompt_id", "annotator", "chosen_text", "rejected_text"]
    fresh = rows.join(round_.lake.read(lake.PREFERENCES).select(same), same, "left_anti")
    # Said twice, it stays where most was said at once, so that a whole choice is not torn by a pair out of it.
    size = f.count("*").over(Window.partitionBy("unit", "choice"))
    columns = [c for c in lake.PREFERENCES.schema().names if c not in lake.PREFERENCES.key]
    owned = fresh.withColumn("size", -size).groupBy(*lake.PREFERENCES.key)
    first = owned.agg(f.min(f.struct("size", "unit", *columns)).alias("row"))
    return first.select(*lake.PREFERENCES.key, "row.*").drop("size")


def _counts(lines: "DataFrame", said: "DataFrame", rows: "DataFrame") -> dict[str, Any]:
    """Account for every record.

    Raises:
        AssertionError: a record is neither kept nor folded nor refused.
    """
    from pyspark.sql import functions as f

    total = lines.count()
    state = {r["state"]: r["count"] for r in said.groupBy("state").count().collect()}
    kept = said.where("state = 'ok'").join(rows.select("unit").distinct(), "unit", "left_semi").count()
    folded = said.where("state = 'ok'").join(rows.select("unit").distinct(), "unit", "left_anti").count()
    folded, refused = folded + state.get("folded", 0), state.get("refused", 0)
    if total != kept + folded + refused:
        raise AssertionError(f"import lost records: {total} in, {kept} kept, {folded} folded, {refused} refused")
    kinds = {f"{r['kind']}_rows": r["count"] for r in rows.groupBy("kind").agg(f.count("*").alias("count")).collect()}
    return {"in": total, "kept": kept, "folded": folded, "refused": refused, **kinds}
