"""The figures of `notebooks/00_tour.py`: one per step, made from the tables of a round. Nothing is computed again.

Not the proof card: no intervals, no verdict; these are for looking at one's own data. Spark counts, so that no figure
brings more to the driver than it draws.
"""

import textwrap
from typing import TYPE_CHECKING, Any

from taolake import lake
from taolake.report.evidence import quarantine_reasons
from taolake.stages import reward, score
from taolake.stages.gate import measured
from taolake.stages.round import Round

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pyspark.sql import DataFrame

_BINS = 20
_SHOWN = 12  # bars and rows beyond this are no longer read


def prompts(round_: Round) -> "Figure":
    """Prompts per split, and why lines were refused."""
    splits = _counts(round_.lake.read(lake.PROMPTS), "split")
    reasons = {each["reason"]: each["count"] for each in quarantine_reasons(round_)[:_SHOWN]}
    figure = _figure(2)
    _bars(figure.axes[0], splits, f"{sum(splits.values())} prompts by split")
    _bars(figure.axes[1], reasons, "lines refused, by reason")
    return figure


def candidates(round_: Round) -> "Figure":
    """The answers to the prompt whose candidates differ most in reward: every scorer's word on each."""
    from pyspark.sql import functions as f

    rewarded = reward.current(round_, round_.base).where(f.col("split") == "train")
    spread = (f.max("reward") - f.min("reward")).alias("spread")
    told = rewarded.groupBy("prompt_id").agg(spread).where("spread is not null").orderBy(f.desc("spread"), "prompt_id")
    chosen = told.first()
    if chosen is None:
        raise RuntimeError("no prompt has a reward; run `taolake stage reward` first, or look at the table 'rewards'")
    members = rewarded.where(f.col("prompt_id") == chosen["prompt_id"]).collect()
    members = sorted(members, key=lambda m: (-(m["reward"] if m["reward"] is not None else -1), m["candidate_id"]))
    names, words = _scores(round_, chosen["prompt_id"], members[0]["group"])
    values = [[words.get((m["candidate_id"], name)) for name in names] + [m["reward"]] for m in members[:_SHOWN]]
    labels = [_short(m["text"] if m["text"] is not None else "(no answer taken out)") for m in members[:_SHOWN]]
    figure = _figure(1, height=1.5 + 0.35 * len(values))
    _cells(figure.axes[0], values, labels, [*names, "reward"])
    figure.axes[0].set_title(_short(members[0]["messages"][-1]["content"], 90))
    return figure


def rewards(round_: Round) -> "Figure":
    """Rewards of the base's candidates for training prompts, the bare prompt's beside the exploring strategies'."""
    from pyspark.sql import functions as f

    mine = (f.col("split") == "train") & f.col("reward").isNotNull()
    rows = reward.current(round_, round_.base).where(mine)
    place = f.least(f.floor(f.col("reward") * _BINS + 1e-9), f.lit(_BINS - 1)).cast("int").alias("place")
    counted = {(r["stream"], r["place"]): r["count"] for r in rows.groupBy("stream", place).count().collect()}
    figure = _figure(1)
    edges, below = [i / _BINS for i in range(_BINS)], [0] * _BINS
    for stream, label in (("A", "bare prompt"), ("B", "exploring strategies")):
        heights = [counted.get((stream, i), 0) for i in range(_BINS)]
        figure.axes[0].bar(edges, heights, 1 / _BINS, bottom=below, align="edge", label=label)
        below = [a + b for a, b in zip(below, heights, strict=True)]
    figure.axes[0].set(title="rewards of training candidates", xlabel="reward", ylabel="candidates", xlim=(0, 1))
    figure.axes[0].legend()
    return figure


def selection(round_: Round) -> "Figure":
    """Rows of the selection by kind, and the spread of the advantages."""
    from pyspark.sql import functions as f

    rows = round_.lake.read(lake.SELECTIONS).where(
        f.col("selection") == round_.done("select", current=False).detail["selection"]
    )
    rows = rows.where(f.col("round") == round_.number)
    tenths = f.floor(f.col("advantage") * 10).cast("int").alias("tenth")
    counted = rows.where(f.col("advantage").isNotNull()).groupBy(tenths).count().collect()
    figure = _figure(2)
    _bars(figure.axes[0], _counts(rows, "kind"), "rows the trainer sees, by kind")
    figure.axes[1].bar([r["tenth"] / 10 for r in counted], [r["count"] for r in counted], 0.1, align="edge")
    figure.axes[1].set(title="advantages of the regression", xlabel="advantage", ylabel="candidates")
    return figure


def passes(round_: Round) -> "Figure":
    """pass@k on the holdout, base against tuned."""
    found = round_.done("evaluate", current=False).detail
    figure = _figure(1)
    for who in ("base", "tuned"):
        numbers = measured(round_, found["evaluation"], found[who])
        ks = sorted(int(metric.removeprefix("pass_at_")) for metric in numbers if metric.startswith("pass_at_"))
        means = [sum(numbers[f"pass_at_{k}"].values()) / len(numbers[f"pass_at_{k}"]) for k in ks]
        figure.axes[0].plot(ks, means, marker="o", label=who)
        figure.axes[0].set_xticks(ks, [str(k) for k in ks])
    figure.axes[0].set(title="at least one of k answers right", xlabel="k", ylabel="share of prompts", ylim=(0, 1))
    figure.axes[0].legend()
    return figure


def _scores(round_: Round, prompt: str, group: str) -> tuple[list[str], dict[tuple[str, str], float | None]]:
    """Scorers in the project's order, and their values for one prompt in the versions of now."""
    from pyspark.sql import functions as f

    current = score.versions(round_)
    rows = round_.lake.read(lake.SCORES).where(f.col("prompt_id") == prompt).collect()
    valid = [r for r in rows if r["scorer_version"] in (v := current.get(r["scorer"], ""), f"{v}@{group}")]
    return list(current), {(r["candidate_id"], r["scorer"]): r["value"] for r in valid}


def _counts(frame: "DataFrame", column: str) -> dict[str, int]:
    return {row[column]: row["count"] for row in frame.groupBy(column).count().orderBy(column).collect()}


def _figure(panels: int, height: float = 3.5) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, height), layout="constrained")
    figure.subplots(1, panels)
    return figure


def _bars(axes: "Axes", counts: dict[str, int], title: str) -> None:
    """Horizontal bars with their numbers, the first on top."""
    drawn = axes.barh([_short(name, 45) for name in counts], list(counts.values()))
    axes.bar_label(drawn, padding=2)
    axes.margins(x=0.2)
    axes.invert_yaxis()
    axes.set_title(title)


def _cells(axes: "Axes", values: list[list[Any]], rows: list[str], columns: list[str]) -> None:
    """A table of numbers coloured by value; an empty cell is a word that was not given."""
    shown = [[float("nan") if v is None else v for v in row] for row in values]
    axes.imshow(shown, aspect="auto", vmin=0, vmax=1.6, cmap="YlGn")  # pale enough to read on
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            axes.text(x, y, "" if value is None else f"{value:.2f}", ha="center", va="center")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(len(columns)), columns)


def _short(text: str, width: int = 60) -> str:
    return textwrap.shorten(text, width, placeholder="…").replace("$", r"\$")
