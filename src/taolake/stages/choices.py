"""People's choices that no reward model trained on: what calibration is fitted on and trust is measured with.

A reward model keeps whole prompts out of its training by a hash of the prompt's id (`reward_model.is_held_out`).
Choices on held-out prompts of the evaluation are left alone.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from taolake import ids, lake
from taolake.config import AgreementScorer, RewardModelScorer
from taolake.stages import reward_model
from taolake.stages.round import Round
from taolake.trust.sample import Pair

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def reward_models(round_: Round) -> list[RewardModelScorer]:
    """Reward models whose word reaches the reward."""
    direct = round_.project.reward.reads
    over = {s.over for s in round_.project.scorers if isinstance(s, AgreementScorer) and s.name in direct}
    return [s for s in round_.project.scorers if isinstance(s, RewardModelScorer) and s.name in direct | over]


def kept_out(pairs: Sequence[Pair], models: Sequence[RewardModelScorer]) -> list[Pair]:
    """The pairs on prompts that none of these models trained on."""
    return [p for p in pairs if all(reward_model.is_held_out(p.prompt, model) for model in models)]


def made(round_: Round) -> list[Pair]:
    """What people chose among candidates of this task, in a fixed order."""
    found = [
        Pair(
            r["prompt_id"], r["chosen"], r["rejected"],
            # Rows from before choices had names, and pairs that stand alone: each is an act of its own.
            r["choice"] or ids.content_hash(r["chosen"], r["rejected"]),
            r["annotator"], round_.project.task.name, r["chosen_text"] or "", r["rejected_text"] or "",
            r["chosen_policy"] or "", r["rejected_policy"] or "",
        )
        for r in _pairs(round_).collect()
    ]  # fmt: skip
    return sorted(found, key=lambda p: (p.prompt, p.choice, p.chosen, p.rejected, p.annotator))


def _pairs(round_: Round) -> "DataFrame":
    """Choices between two candidates, with their texts and policies; imported answers that are none have no score."""
    from pyspark.sql import functions as f

    ours = (f.col("task") == round_.project.task.name) & (f.col("split") != "holdout")
    prompts = round_.lake.read(lake.PROMPTS).where(ours).select("prompt_id")
    said = round_.lake.read(lake.PREFERENCES).select("prompt_id", "chosen", "rejected", "annotator", "choice")
    answers = round_.lake.read(lake.CANDIDATES).select("candidate_id", "text", "policy")
    for side in ("chosen", "rejected"):
        said = said.join(answers.toDF(side, f"{side}_text", f"{side}_policy"), side)
    return said.join(prompts, "prompt_id", "left_semi")
