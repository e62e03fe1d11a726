"""Label: choices among candidates of the `review` prompts become preference pairs.

People's choices arrive in the `preferences` table by import; where a project names a reviewer function (the embedded
example simulates one), it is asked here. The prompts it sees are never trained on, and the prompts trained on are never
seen by it.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from taolake import lake
from taolake.config import Project, RewardModelScorer
from taolake.stages.round import Outcome, Round

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Reviewer = Callable[[Project, str, Sequence[str]], list[tuple[int, int]]]


def label(round_: Round) -> Outcome:
    """Ask the reviewer about every review prompt that has no choice of theirs yet."""
    target = next((s.reviewer for s in round_.project.scorers if isinstance(s, RewardModelScorer) and s.reviewer), None)
    if target is None:
        known = round_.lake.read(lake.PREFERENCES).count()
        return Outcome(0, 0, {"annotator": "people", "pairs": known})
    before = round_.lake.read(lake.PREFERENCES).count()
    pairs = _ask(round_, target)
    schema = lake.PREFERENCES.schema()
    round_.lake.insert_new(lake.PREFERENCES, round_.lake.spark.createDataFrame(pairs, schema))
    after = round_.lake.read(lake.PREFERENCES).count()
    return Outcome(after - before, 0, {"annotator": target, "pairs": after, "prompts": len({p[0] for p in pairs})})


def _ask(round_: Round, target: str) -> list[tuple[str, str, str, str]]:
    module, _, name = target.partition(":")
    reviewer: Reviewer = getattr(importlib.import_module(module), name)
    pairs: list[tuple[str, str, str, str]] = []
    groups = _groups(round_).collect()
    with round_.progress("label", len(groups)) as bar:
        for group in groups:
            answers = sorted(group["answers"], key=lambda a: a["candidate_id"])
            chosen = reviewer(round_.project, group["question"], [a["text"] for a in answers])
            names = [(answers[c]["candidate_id"], answers[r]["candidate_id"]) for c, r in chosen]
            pairs += [(group["prompt_id"], better, worse, target) for better, worse in names]
            bar.add(1)
    return pairs


def _groups(round_: Round) -> "DataFrame":
    """Review prompts with the base policy's distinct answers."""
    from pyspark.sql import functions as f

    ours = (f.col("task") == round_.project.task.name) & (f.col("split") == "review")
    prompts = round_.lake.read(lake.PROMPTS).where(ours)
    mine = (f.col("policy") == round_.base.id) & (f.col("stream") == "A") & f.col("text").isNotNull()
    distinct = round_.lake.read(lake.CANDIDATES).where(mine).groupBy("prompt_id", "text")
    answers = distinct.agg(f.min("candidate_id").alias("candidate_id"))
    question = f.element_at("messages", -1)["content"].alias("question")
    joined = answers.join(prompts.select("prompt_id", question), "prompt_id")
    return joined.groupBy("prompt_id", "question").agg(
        f.collect_list(f.struct("candidate_id", "text")).alias("answers")
    )
