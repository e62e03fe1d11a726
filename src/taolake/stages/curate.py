"""Curate: which of the prompts that ingest found are worth a round, and on which side of the split they lie.

Prompts that are alike form a cluster, and a cluster lies on one side; what earlier runs decided stays. A new prompt
that is alike to prompts on both sides is refused: it would carry one over to the other. Part of `ingest`, which writes
what comes out. Not here: finding what is alike (`taolake.stages.alike`), which prompts are worth most (`chosen`).
"""

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC
from typing import TYPE_CHECKING, Any

from taolake import ids, lake
from taolake.config import Curate, Project
from taolake.curation import alike as pure
from taolake.curation import tagging
from taolake.curation.language import language
from taolake.stages import alike
from taolake.stages.chosen import chosen
from taolake.stages.fanout import Row, map_rows
from taolake.stages.round import Round

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_READ = "prompt_id STRING, text STRING, tag STRING, rest STRING, unfit STRING"
_AT_ONCE = 512  # questions that the classifier is asked about together
Hold = Callable[["DataFrame"], "DataFrame"]
_SIDES = "unit BIGINT, name STRING, side STRING"


def curate(round_: Round, folded: "DataFrame", asked: "DataFrame", hold: Hold) -> "tuple[DataFrame, dict[str, Any]]":
    """Give each prompt its cluster, side and tag, or a reason to leave it out.

    Args:
        round_: says the rules, and what earlier runs decided.
        folded: rows of `prompts` with `chosen` (its source names the split), `users` and `at`.
        asked: `prompt_id` and `request_id` of every request behind them.
        hold: keeps a frame in memory for as long as what is returned here is looked at.

    Returns:
        The same prompts as rows of `prompts`, with `reason`, which is null where the prompt is kept; and what a
        classifier learned.
    """
    from pyspark.sql import functions as f

    spec = round_.project.ingest.curate
    assert spec is not None  # asked by ingest
    ours = round_.lake.read(lake.PROMPTS).where(f.col("task") == round_.project.task.name)
    old = ours.select("prompt_id", f.col("split").alias("old_split"), f.col("cluster").alias("old_cluster"))
    read = map_rows(folded.select("prompt_id", "messages"), _READ, _reader(spec))
    new = folded.join(read, "prompt_id").join(old, "prompt_id", "left")
    new, facts = _tagged(spec, hold(new), hold)
    fit = new.where("unfit IS NULL")
    gone = ours.join(fit, "prompt_id", "left_anti").select("prompt_id", "messages", "split", "cluster")
    sided = _sided(round_.project, spec, fit, gone, hold)
    strange = "old_split IS NULL AND side = 'both'"
    moved = "old_split IS NULL AND chosen AND side != split"
    reason = (
        f.when(f.col("unfit").isNotNull(), f.col("unfit"))
        .when(f.expr(strange), f.lit("alike to prompts on both sides of the split"))
        .when(f.expr(moved), f.concat(f.lit("its source says "), "split", f.lit(", alike to prompts of "), "side"))
    )
    rows = new.join(sided, "prompt_id", "left").withColumn("reason", reason)
    rows = rows.withColumn("split", f.coalesce("old_split", "side", "split"))
    rows = rows.withColumn("cluster", f.coalesce("old_cluster", "name", "prompt_id"))
    rows = hold(rows.select(*lake.PROMPTS.schema().names, "reason"))
    return rows if spec.limit is None else chosen(round_, spec, rows, asked, hold), facts


def _reader(spec: Curate) -> Callable[[Iterator[Row]], Iterator[Row]]:
    """(prompt_id, messages) in, what a prompt asks and whether it is fit out."""

    def read(rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            asked = said(row["messages"])
            question = row["messages"][-1]["content"]
            told = tagging.ruled(question, spec.tags)
            said_ = {"text": asked, "tag": told.tag, "rest": told.rest, "unfit": _unfit(question, spec)}
            yield {"prompt_id": row["prompt_id"], **said_}

    return read


def _tagged(spec: Curate, new: "DataFrame", hold: Hold) -> "tuple[DataFrame, dict[str, Any]]":
    """Have the classifier tag what no rule fits; says what it learned, which may be nothing.

    Raises:
        ValueError: a quota names what is no tag, or the file of examples cannot be read.
    """
    from pyspark.sql import functions as f

    if spec.classifier is None:
        return new, {}
    tagger, facts = tagging.learn(_examples(spec, new), spec.classifier)
    unknown = sorted(spec.quotas.keys() - spec.tags.keys() - {tagging.OTHER} - set(tagger.names if tagger else ()))
    if unknown:
        raise ValueError(f"ingest.curate.quotas names {unknown}, which no rule and no example does")
    if tagger is None:
        return new, {"classifier": facts}
    without = new.where("tag IS NULL AND unfit IS NULL").select("prompt_id", "messages")
    told = hold(map_rows(without, "prompt_id STRING, told STRING", _asking(tagger)))
    facts["tagged"] = told.where("told IS NOT NULL").count()
    new = new.join(told, "prompt_id", "left").withColumn("tag", f.coalesce("tag", "told")).drop("told")
    return hold(new), {"classifier": facts}


def _examples(spec: Curate, new: "DataFrame") -> list[tagging.Example]:
    """What the classifier learns from: a file, or the questions that one rule alone fits."""
    from pyspark.sql import functions as f

    assert spec.classifier is not None  # asked by _tagged
    most = spec.classifier.max_examples
    if spec.classifier.labelled is not None:
        known = tagging.read(spec.classifier.labelled)
        return sorted(known, key=lambda e: ids.content_hash(e.text, e.tag))[:most]
    sure = new.where("unfit IS NULL AND trim(rest) != ''").orderBy(f.xxhash64("prompt_id"), "prompt_id").limit(most)
    return [tagging.Example(row["rest"], row["tag"]) for row in sure.select("rest", "tag").collect()]


def _asking(tagger: tagging.Tagger) -> Callable[[Iterator[Row]], Iterator[Row]]:
    def ask(rows: Iterator[Row]) -> Iterator[Row]:
        while some := list(itertools.islice(rows, _AT_ONCE)):
            told = tagger.tags([row["messages"][-1]["content"] for row in some])
            for row, tag in zip(some, told, strict=True):
                yield {"prompt_id": row["prompt_id"], "told": tag}

    return ask


def said(messages: list[Row]) -> str:
    """What the user said: a system turn that thousands share would make all of them alike."""
    return "\n".join(message["content"] for message in messages if message["role"] == "user")


def _unfit(question: str, spec: Curate) -> str | None:
    if not spec.min_chars <= len(question) <= spec.max_chars:
        return f"a question of {len(question)} characters, wanted {spec.min_chars} to {spec.max_chars}"
    spoken = language(question) if spec.languages else None
    if spoken is not None and spoken not in spec.languages:
        return f"in language {spoken!r}, wanted {', '.join(spec.languages)}"
    return None


def _sided(project: Project, spec: Curate, new: "DataFrame", gone: "DataFrame", hold: Hold) -> "DataFrame":
    """`prompt_id`, `name` of its cluster and `side`, of new prompts and of those that only the table still knows."""
    from pyspark.sql import functions as f

    none = f.lit(None).cast("string")
    known = map_rows(gone, "prompt_id STRING, text STRING, split STRING, cluster STRING", _texts)
    before = known.select(
        "prompt_id", "text", "split", "cluster", none.alias("given"), f.array().cast("array<string>").alias("users"),
        f.lit(None).cast("timestamp").alias("at"),
    )  # fmt: skip
    given = f.when(f.col("chosen") & f.col("old_split").isNull(), f.col("split")).alias("given")
    fresh = new.select(
        "prompt_id",
        "text",
        f.col("old_split").alias("split"),
        f.col("old_cluster").alias("cluster"),
        given,
        "users",
        "at",
    )
    nodes = hold(fresh.unionByName(before).withColumn("id", f.xxhash64("prompt_id")))
    found = alike.clusters(nodes.select("id", "text"), spec.similarity, _ties(nodes, spec))
    units = nodes.join(found.withColumnRenamed("cluster", "found"), "id", "left")
    units = units.withColumn("unit", f.coalesce("found", "id"))
    together = units.groupBy("unit").agg(
        f.collect_set("split").alias("known"),
        f.collect_set("given").alias("given"),
        f.min("cluster").alias("cluster"),
        f.min("prompt_id").alias("first"),
        f.min("at").alias("at"),
    )
    return units.select("prompt_id", "unit").join(map_rows(together, _SIDES, _sides(project, spec)), "unit")


def _texts(rows: Iterator[Row]) -> Iterator[Row]:
    for row in rows:
        yield {name: row[name] for name in ("prompt_id", "split", "cluster")} | {"text": said(row["messages"])}


def _ties(nodes: "DataFrame", spec: Curate) -> "DataFrame | None":
    """Pairs of prompts that one person asked, where a person's prompts must stay together."""
    from pyspark.sql import functions as f

    if "user" not in spec.split_by:
        return None
    asked = nodes.select("id", f.explode("users").alias("user"))
    first = asked.groupBy("user").agg(f.min("id").alias("a"))
    return asked.join(first, "user").select("a", f.col("id").alias("b"))


def _sides(project: Project, spec: Curate) -> Callable[[Iterator[Row]], Iterator[Row]]:
    """Name and side of each cluster: as decided before, as its sources say, by its time, or by its own hash."""
    seed, share, after = project.seed, project.ingest.holdout, spec.holdout_after
    after = after.replace(tzinfo=after.tzinfo or UTC) if after else None

    def decide(rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            name = row["cluster"] or row["first"]
            side = pure.side(row["known"], row["given"])
            if side is None and after is not None and row["at"] is not None:
                side = "holdout" if row["at"] >= after else "train"
            yield {"unit": row["unit"], "name": name, "side": side or ids.split_of(name, seed, share)}

    return decide
