"""Evaluate: base and tuned answer the holdout, and every prompt gets its measurements, paired by prompt.

The only stage that reads gold labels (law 4). Without any, a judge that is not part of the reward takes their place.
The tuned adapter is served by the same engine, unmerged. Intervals and verdicts are made from these rows, not here.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from taolake import ids, lake
from taolake.config import Gold
from taolake.curation.labels import answers
from taolake.scoring.right import comparer
from taolake.selection.weights import best_of_k
from taolake.stages import across, fingerprints, generate, groups, reward, score, together
from taolake.stages.fanout import Row, map_rows
from taolake.stages.round import Outcome, Round
from taolake.trust import curve
from taolake.types import Policy
from taolake.verdict import pass_at_k

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def evaluate(round_: Round) -> Outcome:
    """Answer, score and measure the holdout for both policies; with other tasks in the tuning, theirs too."""
    best = across.best_so_far(round_)
    outcome = compare(round_, round_.base, round_.tuned, best[1] if best else None)
    more = {"best": best[1].id, "best_round": best[0]} if best else {}
    return dataclasses.replace(outcome, detail=outcome.detail | more | {"others": together.evaluate_others(round_)})


def compare(round_: Round, base: Policy, tuned: Policy, best: Policy | None = None) -> Outcome:
    """Measure a project's holdout with two policies; the base has answered it, the tuned one is asked here.

    Args:
        round_: the project's round.
        base: what the round starts from.
        tuned: what came out.
        best: the best of earlier rounds, which is asked what it has not answered yet.

    Raises:
        ValueError: no holdout prompt has a label or a judge's word.
    """
    from pyspark.sql import functions as f

    tokens = 0
    for policy in {p.id: p for p in (best, tuned) if p is not None}.values():
        tokens += generate.fill(round_, policy, generate.holdout_cells(round_.project)).tokens
        score.fill(round_, policy)
        reward.fill(round_, policy)
    who = sorted({p.id: p for p in (base, tuned, best) if p is not None}.items())
    with contextlib.ExitStack() as held:  # each is looked at twice
        asked = {name: _groups(round_, policy).persist() for name, policy in who}
        for rows in asked.values():
            held.callback(rows.unpersist)
        evaluation = _name_of(round_, asked)
        for name, rows in asked.items():
            measured = map_rows(rows, lake.EVALUATIONS.columns, _measure(round_, evaluation, name))
            round_.lake.append_once(lake.EVALUATIONS, measured, ids.content_hash(evaluation, name))
    written = round_.lake.read(lake.EVALUATIONS).where(f.col("evaluation") == evaluation)
    counts = written.where(f.col("metric") == "greedy").groupBy("model").count().collect()
    prompts = {row["model"]: row["count"] for row in counts}
    if not prompts:
        raise ValueError("no holdout prompt has a label or a judge's word; check evaluate.gold.path and ingest.holdout")
    detail = {"evaluation": evaluation, "base": base.id, "tuned": tuned.id, "prompts": prompts.get(base.id, 0)}
    return Outcome(written.count(), tokens, detail)


def _name_of(round_: Round, asked: Mapping[str, "DataFrame"]) -> str:
    """Hash of all that is measured: the project file alone stays what it was where there are new holdout prompts, or
    other rewards, since."""
    from pyspark.sql import functions as f

    seen = []
    for name, rows in asked.items():
        members = rows.select(f.explode("members").alias("m")).select("m.candidate_id", "m.reward", "m.judged")
        seen.append([name, round_.lake.content_id(members, "candidate_id", "reward", "judged")])
    return ids.content_hash(fingerprints(round_.project)["evaluate"], seen)


def _groups(round_: Round, policy: Policy) -> "DataFrame":
    """One row per holdout prompt: every candidate with its reward, and the judge's value where a judge decides."""
    from pyspark.sql import functions as f

    columns = ["candidate_id", "stream", "text", "tokens", "finish_reason", "reward", "judged"]
    rows = groups.candidates(round_, policy).where(f.col("split") == "holdout")
    rows = rows.join(reward.current(round_, policy).select("candidate_id", "reward"), "candidate_id", "left")
    judge = round_.project.evaluate.judge if round_.project.evaluate.gold is None else None
    if judge:
        said = score.said(round_, judge).select("candidate_id", f.col("value").alias("judged"))
        rows = rows.join(said, "candidate_id", "left")
    else:
        rows = rows.withColumn("judged", f.lit(None).cast("double"))
    return rows.groupBy("prompt_id").agg(f.collect_list(f.struct(*columns)).alias("members"))


def _measure(round_: Round, evaluation: str, model: str) -> Callable[[Iterator[Row]], Iterator[Row]]:
    """A prompt's candidates in, its measurements out; prompts without a label have none."""
    gold = round_.project.evaluate.gold
    labels = read_labels(round_.project.task.name, gold, round_.project.ingest.system) if gold else {}
    limit = round_.project.evaluate.samples

    def rows(group: Row) -> Iterator[Row]:
        if gold and group["prompt_id"] not in labels:
            return
        right = comparer(gold, labels[group["prompt_id"]]) if gold else None
        members = sorted(group["members"], key=lambda m: m["candidate_id"])
        marks = [_mark(m, right) for m in members]
        for metric, value in measurements(members, marks, limit).items():
            fixed = {"evaluation": evaluation, "model": model, "prompt_id": group["prompt_id"]}
            yield fixed | {"metric": metric, "value": value}

    return lambda groups_: (row for group in groups_ for row in rows(group))


def _mark(member: Row, right: Callable[[str], bool] | None) -> float | None:
    """1 for a right answer, 0 for a wrong or missing one; None where a judge could not tell."""
    if right is not None:
        return float(member["text"] is not None and right(member["text"]))
    return None if member["judged"] is None else float(member["judged"] >= 0.5)


def measurements(members: Sequence[Row], marks: Sequence[float | None], limit: int) -> dict[str, float]:
    """One prompt's numbers: greedy, sampled, pass@k for k = 1, 2, 4, ..., best-of-n by reward, lengths, truncation, and
    the points of the over-optimisation curve."""
    pairs = [(m, mark) for m, mark in zip(members, marks, strict=True) if mark is not None]
    greedy = [(m, mark) for m, mark in pairs if m["stream"] == "G"]
    sampled = [(m, mark) for m, mark in pairs if m["stream"] == "A"]
    if not greedy or not sampled:
        return {}
    n, correct = len(sampled), sum(int(mark) for _, mark in sampled)
    found = {
        "greedy": greedy[0][1],
        "greedy_tokens": float(greedy[0][0]["tokens"]),
        "greedy_truncated": float(greedy[0][0]["finish_reason"] == "length"),
        "samples": float(n),
        "correct": float(correct),
        "tokens": sum(m["tokens"] for m, _ in sampled) / n,
    }
    k = 1
    while k <= min(n, limit):
        found[f"pass_at_{k}"] = pass_at_k(n, correct, k)
        k *= 2
    rewarded = [(m["reward"], mark) for m, mark in sampled if m["reward"] is not None]
    # A prompt the reward abstains on is answered by any sample: best-of-n is then no better than one try.
    found["best_of_n"] = (
        best_of_k([r for r, _ in rewarded], [mark for _, mark in rewarded], len(rewarded)) if rewarded else correct / n
    )
    if rewarded:
        found["reward"] = sum(r for r, _ in rewarded) / len(rewarded)
    return found | curve.metrics([r for r, _ in rewarded], [mark for _, mark in rewarded], limit)


def read_labels(task: str, gold: Gold, system: str | None = None) -> dict[str, str]:
    """Labels by prompt id; a line that cannot be read is an error, since a label lost would change the result."""
    return answers(gold.path, task, system)
