"""What is measured of a window and a model version: facts of requests become metrics with intervals.

Spark counts; only counts, sums and quantiles come to the driver, and the few prompts that an encoder reads. A *cell* is
one window of one version, `(window, model)`. Which cells are measured, and what alarms, is said in `monitor`.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from taolake import lake
from taolake.config import Monitor
from taolake.stages import observe
from taolake.stages.round import Round
from taolake.verdict import Interval
from taolake.watch import drift, intervals
from taolake.watch.rules import Measurement

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row

Cell = tuple[int, str]
Bins = dict[str, dict[str, int]]
KINDS = {"task": "psi_task", "length": "psi_length", "language": "psi_language", "answers": "psi_answers"}
_KEY = ("window", "model")


def measure(round_: Round, facts: "DataFrame", rows: "DataFrame", reference: int) -> dict[Cell, list[Measurement]]:
    """Metrics of every cell in `facts`.

    Args:
        round_: the project and its lake.
        facts: `observe.facts` of the cells, and of the reference window.
        rows: the requests themselves, for the encoder.
        reference: window whose prompts the others are held against.
    """
    spec = round_.project.monitor
    found: dict[Cell, list[Measurement]] = {}
    for row in _service(facts).collect():
        found[row["window"], row["model"]] = service(row, spec)
    for part in (_drifts(facts, reference), _agreement(facts), _feedback(round_, facts), _scores(round_, facts)):
        for cell, some in part.items():
            found[cell] += some
    if spec.encoder:
        for cell, some in _distances(rows, spec, reference).items():
            found[cell] += some
    return found


def service(row: "Row", spec: Monitor) -> list[Measurement]:
    """What needs no other row: errors, form, speed, tokens, cost."""
    n, came = row["n"], row["answered"]
    asked, wrote = row["asked"] or 0, row["wrote"] or 0
    price = (asked * spec.dollars_per_million[0] + wrote * spec.dollars_per_million[1]) / 1e6
    return [
        _plain("requests", n, n),
        _with("errors", intervals.share(n - came, n), n),
        _with("refusals", intervals.share(row["refused"], came), came),
        _with("truncated", intervals.share(row["truncated"], came), came),
        _with("repetition", intervals.mean(row["repetition"], row["repetition_sd"], came), came),
        *(_plain(name, row[name], row[f"{name}_n"]) for name in ("latency_p50_ms", "latency_p95_ms")),
        _plain("first_token_p50_ms", row["first_token_p50_ms"], row["first_n"]),
        _plain("tokens_in", asked, n),
        _plain("tokens_out", wrote, n),
        _with("answer_tokens", intervals.mean(row["tokens"], row["tokens_sd"], row["tokens_n"]), row["tokens_n"]),
        _plain("dollars", price, n),
    ]


def _service(facts: "DataFrame") -> "DataFrame":
    from pyspark.sql import functions as f

    def quantile(column: str, at: float) -> Any:
        return f.percentile_approx(column, at)

    return facts.groupBy(*_KEY).agg(
        f.count(f.lit(1)).alias("n"),
        f.sum("answered").alias("answered"),
        f.sum("refused").alias("refused"),
        f.sum("truncated").alias("truncated"),
        f.avg("repetition").alias("repetition"),
        f.stddev("repetition").alias("repetition_sd"),
        quantile("latency_ms", 0.5).alias("latency_p50_ms"),
        quantile("latency_ms", 0.95).alias("latency_p95_ms"),
        f.count("latency_ms").alias("latency_p50_ms_n"),
        f.count("latency_ms").alias("latency_p95_ms_n"),
        quantile("first_token_ms", 0.5).alias("first_token_p50_ms"),
        f.count("first_token_ms").alias("first_n"),
        f.sum("prompt_tokens").alias("asked"),
        f.sum("tokens").alias("wrote"),
        f.avg("tokens").alias("tokens"),
        f.stddev("tokens").alias("tokens_sd"),
        f.count("tokens").alias("tokens_n"),
    )


def _drifts(facts: "DataFrame", reference: int) -> dict[Cell, list[Measurement]]:
    """Population stability of prompts and answers against the reference window of all versions."""
    from pyspark.sql import functions as f

    pairs = f.explode(f.array(*(f.struct(f.lit(k).alias("kind"), f.col(k).alias("bin")) for k in KINDS)))
    rows = facts.select(*_KEY, pairs.alias("pair")).groupBy(*_KEY, "pair.kind", "pair.bin").count().collect()
    cells: dict[Cell, Bins] = defaultdict(lambda: {kind: {} for kind in KINDS})
    before: Bins = {kind: defaultdict(int) for kind in KINDS}
    for row in rows:
        cells[row["window"], row["model"]][row["kind"]][row["bin"]] = row["count"]
        if row["window"] == reference:
            before[row["kind"]][row["bin"]] += row["count"]
    return {cell: stabilities(before, now) for cell, now in cells.items()}


def stabilities(before: Bins, now: Bins) -> list[Measurement]:
    """Every kind's index; its lower end is what it would hardly be if nothing had changed."""
    made = []
    for kind, metric in KINDS.items():
        value, chance = drift.stability(before[kind], now[kind]), drift.noise(before[kind], now[kind])
        ends = None if value is None else Interval(value, max(0.0, value - 2 * chance), value + 2 * chance)
        made.append(_with(metric, ends, sum(now[kind].values())))
    return made


def _agreement(facts: "DataFrame") -> dict[Cell, list[Measurement]]:
    """Chance that two answers of a version to one prompt are the same."""
    from pyspark.sql import functions as f

    n = f.col("count")
    given = facts.where(f.col("answer_key").isNotNull()).groupBy(*_KEY, "prompt_key", "answer_key").count()
    prompts = given.groupBy(*_KEY, "prompt_key").agg(f.sum(n * (n - 1) / 2).alias("equal"), f.sum(n).alias("count"))
    rows = prompts.groupBy(*_KEY).agg(f.sum("equal").alias("equal"), f.sum(n * (n - 1) / 2).alias("pairs")).collect()
    return {
        (r["window"], r["model"]): [_with("agreement", intervals.share(r["equal"], int(r["pairs"])), int(r["pairs"]))]
        for r in rows
    }


def _feedback(round_: Round, facts: "DataFrame") -> dict[Cell, list[Measurement]]:
    """How often people reacted, and how well they spoke of it; an edit says that the answer had to be mended."""
    from pyspark.sql import functions as f

    said = round_.lake.read(lake.FEEDBACK).select("request_id", reaction().alias("value"))
    per = facts.select(*_KEY, "request_id").join(
        said.groupBy("request_id").agg(f.avg("value").alias("value")), "request_id"
    )
    given = per.groupBy(*_KEY).agg(
        f.count("value").alias("n"), f.avg("value").alias("value"), f.stddev("value").alias("spread")
    )
    totals = facts.groupBy(*_KEY).agg(f.sum("answered").alias("answered"))
    made = {}
    for row in totals.join(given, list(_KEY), "left").collect():
        n = row["n"] or 0
        made[row["window"], row["model"]] = [
            _with("feedback_rate", intervals.share(min(n, row["answered"]), row["answered"]), row["answered"]),
            _with("feedback", intervals.mean(row["value"], row["spread"], n), n),
        ]
    return made


def reaction() -> Any:
    """A row of `feedback` as a number from -1 to 1; an edit without one is -1."""
    from pyspark.sql import functions as f

    return f.when(f.col("value").isNotNull(), f.col("value")).when(f.col("kind") == "edit", f.lit(-1.0))


def _scores(round_: Round, facts: "DataFrame") -> dict[Cell, list[Measurement]]:
    """Mean of each scorer's values."""
    from pyspark.sql import functions as f

    current = observe.versions(round_)
    if not current:
        return {}
    mine = f.concat_ws("@", "scorer", "scorer_version").isin([f"{name}@{v}" for name, v in current.items()])
    said = round_.lake.read(lake.ANSWER_SCORES).where(mine & f.col("value").isNotNull())
    joined = facts.select(*_KEY, "request_id").join(said, "request_id").groupBy(*_KEY, "scorer")
    rows = joined.agg(f.count("value").alias("n"), f.avg("value").alias("mean"), f.stddev("value").alias("spread"))
    made: dict[Cell, list[Measurement]] = defaultdict(list)
    for row in rows.orderBy("scorer").collect():
        ends = intervals.mean(row["mean"], row["spread"], row["n"])
        made[row["window"], row["model"]].append(_with(f"score_{row['scorer']}", ends, row["n"]))
    return made


def _distances(rows: "DataFrame", spec: Monitor, reference: int) -> dict[Cell, list[Measurement]]:
    """Distance of a cell's mean prompt from the reference window's, by a sentence encoder on this machine's CPU."""
    from pyspark.sql import Window
    from pyspark.sql import functions as f

    from taolake.engines.encoder import encoder_id, load

    last = f.element_at("messages", -1)["content"].alias("question")
    place = f.row_number().over(Window.partitionBy(*_KEY).orderBy(f.xxhash64("request_id")))
    some = rows.withColumn("place", place).where(f.col("place") <= spec.encoded).select(*_KEY, last).dropna().collect()
    encoder = load(str(spec.encoder), encoder_id(str(spec.encoder)), "cpu")
    texts = sorted({row["question"] for row in some})
    known = dict(zip(texts, encoder.encode(texts), strict=True))
    cells: dict[Cell, list[Any]] = defaultdict(list)
    for row in some:
        cells[row["window"], row["model"]].append(known[row["question"]])
    before = [vector for cell, vectors in cells.items() if cell[0] == reference for vector in vectors]
    return {
        cell: [_plain("prompt_distance", drift.distance(_centre(before), _centre(vectors)), len(vectors))]
        for cell, vectors in cells.items()
    }


def _centre(vectors: Sequence[Any]) -> list[float]:
    return [float(x) for x in sum(vectors) / len(vectors)]


def _plain(metric: str, value: float | None, n: int) -> Measurement:
    return Measurement(metric, None if value is None else float(value), None, None, n)


def _with(metric: str, ends: Interval | None, n: int) -> Measurement:
    return Measurement(metric, None, None, None, n) if ends is None else Measurement(metric, *ends, n)


def values(found: Mapping[Cell, Sequence[Measurement]], cell: Cell) -> dict[str, float | None]:
    """A cell's values by metric."""
    return {each.metric: each.value for each in found.get(cell, ())}
