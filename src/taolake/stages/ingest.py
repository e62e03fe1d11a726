"""Ingest: logs of any shape become prompts, each once; what cannot be read goes to quarantine with its reason.

In = kept + folded + quarantined, asserted in every run. Not here: near-duplicates and selection (`curate`), personal
data (`collect`), answers.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from taolake import ids, lake
from taolake.config import Ingest, Project, Source
from taolake.curation.parse import parse
from taolake.stages.curate import curate
from taolake.stages.fanout import Row, map_rows
from taolake.stages.round import Outcome, Round

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_PARSED = """source STRING, messages ARRAY<STRUCT<role: STRING, content: STRING>>, request_id STRING, user_id STRING,
             at STRING, prompt_id STRING, split STRING, chosen BOOLEAN, reason STRING, excerpt STRING"""
_FIELDS = ("source", "messages", "request_id", "user_id", "at", "prompt_id", "split", "chosen", "reason", "excerpt")


def ingest(round_: Round) -> Outcome:
    """Read every source, write `prompts`, who asked them into `asked`, and `quarantine`."""
    from pyspark.sql import functions as f

    with ExitStack() as held:

        def hold(frame: "DataFrame") -> "DataFrame":
            held.callback(frame.persist().unpersist)
            return frame

        parsed = hold(_parsed(round_))
        good, bad = parsed.where(f.col("reason").isNull()), parsed.where(f.col("reason").isNotNull())
        folded = hold(_fold(good, round_.project.task.name))
        who = asked(good)
        curated = round_.project.ingest.curate is not None
        prompts, facts = curate(round_, folded, who, hold) if curated else (_as_they_are(folded), {})
        prompts = hold(prompts)
        kept, left = prompts.where("reason IS NULL").drop("reason"), prompts.where("reason IS NOT NULL")
        counts = _counts(parsed, folded, prompts)
        start = f.substring(f.element_at("messages", -1)["content"], 1, 200).alias("excerpt")
        both = bad.select("source", "reason", "excerpt").union(left.select("source", "reason", start))
        place = f.lit("ingest").alias("stage"), f.col("source").alias("source_id")
        if counts["quarantined"]:
            round_.lake.insert_new(lake.QUARANTINE, both.select(*place, "reason", "excerpt"))
        if not counts["kept"]:
            lines = f"no usable prompt among {counts['in']} lines"
            raise ValueError(f"{lines}; `taolake tables quarantine` says what was wrong with them")
        # Who asked comes before the prompts: a prompt that is there has its askers, also where a run is killed in
        # between. Prompts come last: what is kept in memory was made with them and is made again once they change.
        round_.lake.merge(lake.ASKED, who)
        round_.lake.merge(lake.PROMPTS, kept)
    return Outcome(counts["kept"], 0, counts | facts)


def _as_they_are(folded: "DataFrame") -> "DataFrame":
    """Every prompt is kept, and a cluster of its own."""
    from pyspark.sql import functions as f

    none = f.lit(None).cast("string")
    return folded.drop("chosen", "users", "at").select(
        "*", f.col("prompt_id").alias("cluster"), none.alias("tag"), none.alias("reason")
    )


def _counts(parsed: "DataFrame", unique: "DataFrame", prompts: "DataFrame") -> dict[str, int]:
    """Account for every line.

    Raises:
        AssertionError: a line is neither kept nor folded nor quarantined.
    """
    from pyspark.sql import functions as f

    total, bad = parsed.agg(f.count(f.lit(1)), f.count("reason")).collect()[0]
    by_split = prompts.groupBy("split", f.col("reason").isNull().alias("kept")).count().collect()
    splits = {row["split"]: row["count"] for row in by_split if row["kept"]}
    kept = sum(splits.values())
    quarantined = bad + sum(row["count"] for row in by_split if not row["kept"])
    folded = unique.agg(f.coalesce(f.sum(f.col("seen") - 1), f.lit(0))).collect()[0][0]
    if total != kept + folded + quarantined:
        raise AssertionError(f"ingest lost lines: {total} in, {kept} kept, {folded} folded, {quarantined} quarantined")
    return {"in": total, "kept": kept, "folded": folded, "quarantined": quarantined, **splits}


def _fold(good: "DataFrame", task: str) -> "DataFrame":
    """One row per prompt; the first line it was seen in stands for it. An explicit split wins over an automatic one."""
    from pyspark.sql import functions as f

    first = f.min(f.struct(~f.col("chosen"), "source", "request_id", "messages", "split"))
    asked = f.collect_set("user_id").alias("users"), f.min(f.try_to_timestamp("at")).alias("at")
    folded = good.groupBy("prompt_id").agg(first.alias("first"), f.count(f.lit(1)).alias("seen"), *asked)
    return folded.select(
        "prompt_id",
        f.lit(task).alias("task"),
        "first.messages",
        "first.split",
        "seen",
        "first.source",
        "first.request_id",
        (~f.col("first.col1")).alias("chosen"),
        "users",
        "at",
    )


def asked(good: "DataFrame") -> "DataFrame":
    """Rows of `asked` from rows of (prompt_id, request_id, user_id, source); every writer of `prompts` writes these."""
    from pyspark.sql import functions as f

    request = f.coalesce(f.nullif("request_id", f.lit("")), "source").alias("request_id")
    first = f.min(f.struct("source", "user_id")).alias("first")
    rows = good.groupBy("prompt_id", request).agg(first, f.count(f.lit(1)).alias("times"))
    return rows.select("prompt_id", "request_id", "first.user_id", "first.source", "times")


def _parsed(round_: Round) -> "DataFrame":
    """All lines of all sources, each with a conversation or a reason."""
    frames = [_parse_source(round_, source) for source in round_.project.ingest.sources]
    result = frames[0]
    for frame in frames[1:]:
        result = result.unionByName(frame)
    return result


def _parse_source(round_: Round, source: Source) -> "DataFrame":
    return map_rows(lines(round_, source), _PARSED, _parser(round_.project, source))


def _parser(project: Project, source: Source) -> Callable[[Iterator[Row]], Iterator[Row]]:
    """(source, line) in, a conversation or a reason out."""
    spec: Ingest = project.ingest
    blank = dict.fromkeys(_FIELDS)

    def parsed(where: str, line: bytes) -> Row:
        logged = parse(line, source.messages, spec.system, spec.max_prompt_chars)
        if isinstance(logged, str):
            excerpt = line[:200].decode("utf-8", errors="replace")
            return blank | {"source": where, "reason": logged, "excerpt": excerpt}
        prompt = ids.prompt_id(project.task.name, logged.messages)
        split = source.split if source.split != "auto" else ids.split_of(prompt, project.seed, spec.holdout)
        found: Row = {"source": where, "messages": list(logged.messages), "request_id": logged.request_id}
        found |= {"user_id": logged.user_id, "at": logged.at}
        return blank | found | {"prompt_id": prompt, "split": split, "chosen": source.split != "auto"}

    return lambda rows: (parsed(row["source"], row["line"] or b"") for row in rows)


def lines(round_: Round, source: Source) -> "DataFrame":
    """Rows of a source as (source, line): JSON bytes and where they stood."""
    from pyspark.sql import functions as f

    spark = round_.lake.spark
    if source.format == lake.INFERENCE_LOG.name == source.path:
        return _logged(round_)
    as_text = source.format == "jsonl" or source.path.endswith((".json", ".jsonl"))
    if as_text:
        text = spark.read.text(source.path).select("value", *_PLACE)
        return text.select(_numbered(source.path), f.col("value").cast("binary").alias("line"))
    if source.format in ("delta", "inference_log"):
        rows = spark.read.format("delta").load(source.path) if "/" in source.path else spark.read.table(source.path)
        json = f.to_json(f.struct("*"))
        # A table's rows have no place: their content names them, so that another reading finds the same name.
        name = f.concat_ws("#", f.lit(source.path), f.substring(f.sha2(json, 256), 1, 16))
        return rows.select(name.alias("source"), json.cast("binary").alias("line"))
    reader = spark.read.option("header", "true").option("multiLine", "true").option("escape", '"')
    rows = reader.csv(source.path) if source.format == "csv" else spark.read.parquet(source.path)
    rows = rows.select(f.to_json(f.struct(*(f.col(name) for name in rows.columns))).alias("row"), *_PLACE)
    return rows.select(_numbered(source.path), f.col("row").cast("binary").alias("line"))


def allowed(round_: Round) -> "DataFrame":
    """Rows of the lake's own `inference_log` that the task may learn from: nobody objected, their time is not over."""
    from pyspark.sql import functions as f

    spec = round_.project.ingest.curate
    agreed = f.col("consent") if spec is not None and spec.require_consent else f.expr("consent IS NOT FALSE")
    # A moment, not `now()`: MERGE puts a moment of its own in that place, no longer knows what was kept in memory for
    # the same question, and reads all of it again.
    alive = f.col("expires_at").isNull() | (f.col("expires_at") > f.lit(datetime.now(UTC)))
    ours = f.coalesce("task", f.lit(round_.project.task.name)) == round_.project.task.name
    return round_.lake.read(lake.INFERENCE_LOG).where(agreed & alive & ours)


def _logged(round_: Round) -> "DataFrame":
    from pyspark.sql import functions as f

    line = f.to_json(f.struct("messages", "request_id", "user_id", "logged_at")).cast("binary").alias("line")
    return allowed(round_).select(f.concat(f.lit(f"{lake.INFERENCE_LOG.name}#"), "request_id").alias("source"), line)


_PLACE = ("_metadata.file_path", "_metadata.file_block_start")


def _numbered(path: str) -> "Column":
    """`file:line`, counted from 1 in the file's own order, however Spark split it."""
    from pyspark.sql import Window
    from pyspark.sql import functions as f

    order = Window.partitionBy("file_path").orderBy("file_block_start", f.monotonically_increasing_id())
    # As the project file names it: the rest of the path belongs to the machine, not to the data.
    file = f.concat(f.lit(path), f.substring_index("file_path", path, -1))
    return f.concat_ws(":", file, f.row_number().over(order)).alias("source")
