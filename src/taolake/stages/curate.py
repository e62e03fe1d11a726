"""Curate: which of the prompts that ingest found are worth a round, and on which side of the split they lie.

Prompts that are alike form a cluster, and a cluster lies on one side; what earlier runs decided stays. A new prompt
that is alike to prompts on both sides is refused: it would carry one over to the other. Part of `ingest`, which writes
what comes out. Not here: finding what is alike (`taolake.stages.alike`), worth (`taolake.curation.worth`).
"""

from collections.abc import Callable, Iterator
from datetime import UTC
from typing import TYPE_CHECKING

from taolake import ids, lake
from taolake.config import Curate, Project
from taolake.curation import alike as pure
from taolake.curation.language import language
from taolake.curation.worth import Prompt, choose, tag_of
from taolake.stages import alike
from taolake.stages.fanout import Row, map_rows
from taolake.stages.round import Round

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_READ = "prompt_id STRING, text STRING, tag STRING, unfit STRING"
Hold = Callable[["DataFrame"], "DataFrame"]
_SIDES = "unit BIGINT, name STRING, side STRING"


def curate(round_: Round, folded: "DataFrame", hold: Hold) -> "DataFrame":
    """Give each prompt its cluster, side and tag, or a reason to leave it out.

    Args:
        round_: says the rules, and what earlier runs decided.
        folded: rows of `prompts` with `chosen` (its source names the split), `users` and `at`.
        hold: keeps a frame in memory for as long as what is returned here is looked at.

    Returns:
        The same prompts as rows of `prompts`, with `reason`, which is null where the prompt is kept.
    """
    from pyspark.sql import functions as f

    spec = round_.project.ingest.curate
    assert spec is not None  # asked by ingest
    ours = round_.lake.read(lake.PROMPTS).where(f.col("task") == round_.project.task.name)
    old = ours.select("prompt_id", f.col("split").alias("old_split"), f.col("cluster").alias("old_cluster"))
    read = map_rows(folded.select("prompt_id", "messages"), _READ, _reader(spec))
    new = folded.join(read, "prompt_id").join(old, "prompt_id", "left")
    new = hold(new)
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
    return rows if spec.limit is None else _selected(round_, spec, rows)


def _reader(spec: Curate) -> Callable[[Iterator[Row]], Iterator[Row]]:
    """(prompt_id, messages) in, what a prompt asks and whether it is fit out."""

    def read(rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            asked = said(row["messages"])
            question = row["messages"][-1]["content"]
            unfit = _unfit(question, spec)
            yield {"prompt_id": row["prompt_id"], "text": asked, "tag": tag_of(question, spec.tags), "unfit": unfit}

    return read


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


def _selected(round_: Round, spec: Curate, rows: "DataFrame") -> "DataFrame":
    """The training prompts most worth having stay in `train`; the others wait as `spare`."""
    from pyspark.sql import functions as f

    assert spec.limit is not None  # asked by curate
    good = round_.lake.read(lake.REWARDS).groupBy("prompt_id").agg(f.avg(f.expr("double(reward > 0.5)")).alias("good"))
    felt = round_.lake.read(lake.FEEDBACK).groupBy("request_id").agg(((f.avg("value") + 1) / 2).alias("felt"))
    train = rows.where("reason IS NULL AND split IN ('train', 'spare')").join(good, "prompt_id", "left")
    found = train.join(felt, "request_id", "left").select("prompt_id", "cluster", "tag", f.coalesce("good", "felt"))
    prompts = [Prompt(*row) for row in found.toLocalIterator()]
    taken = choose(prompts, spec.limit, spec.quotas, {str(name): weight for name, weight in spec.weights.items()})
    chosen = round_.lake.spark.createDataFrame([(each, True) for each in taken], "prompt_id STRING, taken BOOLEAN")
    side = f.when(f.expr("split IN ('train', 'spare')"), f.expr("if(taken, 'train', 'spare')")).otherwise(
        f.col("split")
    )
    return rows.join(chosen, "prompt_id", "left").withColumn("split", side).drop("taken")
