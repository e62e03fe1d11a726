"""Across rounds: what keeps a round from feeding on the ones before it, and from losing what they had won.

Part of `select`, `evaluate` and `gate`. Rounds start from the base model of the project file, so prompts of earlier
rounds and their winners are in play again by themselves. All of this matters once that base is a model tuned here: its
answers are then *self-made*. Winners that another model gave, and labels, are the *anchors* beside them.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taolake import ids, lake
from taolake.selection.weights import different_in
from taolake.stages.round import Round
from taolake.trust import TrustError
from taolake.types import Policy
from taolake.verdict import Guard, paired_gain

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_IMITATING = ("tao", "rft")


def tuned_here(round_: Round) -> dict[int, dict[str, Any]]:
    """What `train` wrote down in every earlier round: the policy it made."""
    return _earlier(round_, "train")


def starts_from_own(round_: Round) -> bool:
    """Whether the base is a model tuned here: a policy of an earlier round, or what a round left in the work folder."""
    work, base = Path(round_.project.work).resolve(), Path(round_.project.model.path).resolve()
    made = {detail["policy"] for detail in tuned_here(round_).values()}
    left = base.is_relative_to(work) and base.relative_to(work).as_posix().startswith("round-")
    return left or round_.base.id in made


def best_so_far(round_: Round) -> tuple[int, Policy] | None:
    """The newest earlier round that the gate promoted, and its policy; each had to be as good as those before it."""
    from pyspark.sql import functions as f

    mine = (f.col("stage") == "gate") & (f.col("state") == "done") & (f.col("round") < round_.number)
    rows = round_.lake.read(lake.ROUNDS).where(mine).select("round", "detail").collect()
    made = tuned_here(round_)
    promoted = [r["round"] for r in rows if json.loads(r["detail"])["promoted"] and r["round"] in made]
    if not promoted:
        return None
    detail = made[max(promoted)]
    return max(promoted), Policy(detail["policy"], detail["model"], detail["revision"], detail["adapter"])


def guard(round_: Round, best: dict[str, float], tuned: dict[str, float]) -> Guard:
    """Trips unless the tuned model is shown to be no worse than the best so far, by the limit of the project file."""
    prompts = sorted(best.keys() & tuned.keys())
    resamples, limit = round_.project.evaluate.resamples, round_.project.flywheel.max_loss
    gain = paired_gain([best[p] for p in prompts], [tuned[p] for p in prompts], resamples, round_.project.seed)
    lost = max(-gain.low, 0.0)
    return Guard("loss_to_best_so_far", lost, limit, lost <= limit)


def balance(round_: Round, selection: str, rows: "DataFrame", told: int) -> "tuple[DataFrame, dict[str, Any]]":
    """A selection's rows with winners of earlier rounds seen again, and self-made ones cut back to their cap.

    Args:
        round_: the round.
        selection: its name.
        rows: of this round's own candidates.
        told: rows of labels that come on top, which are anchors.

    Raises:
        TrustError: the base is a model tuned here, and there is no anchor to put beside its answers.
    """
    from pyspark.sql import functions as f

    spec = round_.project.flywheel
    if round_.number == 1 or round_.project.train.algorithm not in _IMITATING:
        return rows, {}
    self_made = starts_from_own(round_)
    looked_at = rows.where("kind = 'dev'").select("prompt_id")  # by the brakes: nobody teaches these
    anchors = _winners(round_, selection, self_made).join(looked_at, "prompt_id", "left_anti")
    if not self_made and anchors.isEmpty():  # the same base as ever: its earlier winners are in play by themselves
        return rows, {"replayed": 0, "self_made": 0}
    own = rows.where(f.col("kind") == "imitate").count()
    seen = _first(anchors, round(spec.replay * own)) if not self_made else anchors
    replayed = seen.count()
    facts: dict[str, Any] = {"replayed": replayed, "self_made": own if self_made else 0}
    if not self_made or spec.max_self_made == 1:
        return rows.unionByName(seen), facts
    if not replayed + told:
        raise TrustError(
            f"round {round_.number} starts from a model tuned here and has no anchor: its own answers would be all "
            "it learns from; give select.labels, start from the first base, or set flywheel.max_self_made to 1",
            facts,
        )
    most = int(spec.max_self_made / (1 - spec.max_self_made) * (replayed + told))
    kept = _first(rows.where(f.col("kind") == "imitate"), most)
    others = rows.where(f.col("kind") != "imitate")
    return others.unionByName(kept).unionByName(seen), facts | {"self_made": min(own, most), "cut": max(0, own - most)}


def diverse(round_: Round, rows: "DataFrame") -> float | None:
    """Share of the imitated answers that are different ones; None where nothing is imitated.

    Raises:
        TrustError: of as many answers it is too far below the first round's.
    """
    sizes = _sizes(rows)
    n, different = sum(size * texts for size, texts in sizes.items()), sum(sizes.values())
    if not n:
        return None
    share, before = different / n, _sizes(_first_imitated(round_))
    m = min(n, sum(size * texts for size, texts in before.items()))
    now, then = (different_in(each, m) / max(1, m) for each in (sizes, before))
    floor = round_.project.flywheel.min_diversity
    if now < floor * then:
        raise TrustError(
            f"{different} of {n} imitated answers are different ones, a share of {now:.3f} among {m} of them where the "
            f"first round had {then:.3f}; wanted {floor:g} of that: the rounds are closing in on few answers; bring "
            "new prompts in, or start from the first base",
            {"diversity": share},
        )
    return share


def _earlier(round_: Round, stage: str) -> dict[int, dict[str, Any]]:
    """What a stage wrote down in every earlier round, the oldest first."""
    done = round_.lake.rows(lake.ROUNDS, stage=stage, state="done")
    told = {row["round"]: json.loads(row["detail"]) for row in done if row["round"] < round_.number}
    return dict(sorted(told.items()))


def _sizes(rows: "DataFrame") -> dict[int, int]:
    """How many imitated texts are there once, twice, ..."""
    from pyspark.sql import functions as f

    texts = rows.where(f.col("kind") == "imitate").groupBy("text").agg(f.count(f.lit(1)).alias("size"))
    return {row["size"]: row["count"] for row in texts.groupBy("size").count().collect()}


def _first_imitated(round_: Round) -> "DataFrame":
    """What the first round that imitated learned from; no row before there was one."""
    from pyspark.sql import functions as f

    told = _earlier(round_, "select").items()
    number, selection = next(((n, d["selection"]) for n, d in told if d.get("diversity") is not None), (0, ""))
    return round_.lake.read(lake.SELECTIONS).where((f.col("round") == number) & (f.col("selection") == selection))


def _winners(round_: Round, selection: str, anchors: bool) -> "DataFrame":
    """Imitated rows of earlier rounds by other policies, the newest of a prompt and text; of anchors alone if asked."""
    from pyspark.sql import Window
    from pyspark.sql import functions as f

    made = [detail["policy"] for detail in tuned_here(round_).values()]
    rows = round_.lake.read(lake.SELECTIONS).where((f.col("kind") == "imitate") & (f.col("round") < round_.number))
    by = round_.lake.read(lake.CANDIDATES).select("candidate_id", "policy")
    other = (f.col("policy") != round_.base.id) & ~(f.lit(anchors) & f.col("policy").isin(made))
    rows = rows.join(by, "candidate_id").where(other).drop("policy")
    newest = Window.partitionBy("prompt_id", "text").orderBy(f.desc("round"), "row_id")
    rows = rows.withColumn("place", f.row_number().over(newest)).where("place = 1").drop("place")
    fresh = f.substring(f.sha2(f.concat(f.lit(f"{selection}/replay/"), "row_id"), 256), 1, len(ids.content_hash("")))
    return rows.withColumns({"round": f.lit(round_.number), "selection": f.lit(selection), "row_id": fresh})


def _first(rows: "DataFrame", count: int) -> "DataFrame":
    """As many rows, by their ids: the same ones every time."""
    return rows.orderBy("row_id").limit(count)
