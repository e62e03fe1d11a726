"""Gate: may the tuned model replace what is deployed? Decided from `evaluations` alone, with intervals paired by
prompt.

A gain counts when the lower end of its interval is above the limit and no guard trips. One guard is the
over-optimisation curve: a reward whose best-of-k makes the gate's scorer fall has been gamed. Another is the best
version so far, which the tuned one must not fall behind. The verdict is a row in `rounds`.
"""

from typing import Any

from taolake import lake
from taolake.stages import across, together
from taolake.stages.round import Outcome, Round
from taolake.trust import curve
from taolake.trust.sample import Draws
from taolake.verdict import Guard, Interval, decide, paired_gain


def gate(round_: Round) -> Outcome:
    """Compare base and tuned, and write the verdict."""
    found = round_.done("evaluate").detail
    base, tuned = (measured(round_, found["evaluation"], found[who]) for who in ("base", "tuned"))
    spec, evaluate = round_.project.gate, round_.project.evaluate
    prompts = sorted(base["greedy"].keys() & tuned["greedy"].keys())
    gain = paired_gain(
        [base["greedy"][p] for p in prompts],
        [tuned["greedy"][p] for p in prompts],
        evaluate.resamples,
        round_.project.seed,
    )
    growth = _mean(tuned["greedy_tokens"]) / max(_mean(base["greedy_tokens"]), 1e-9) - 1
    cut = _mean(tuned["greedy_truncated"])
    guards = [
        Guard("length_growth", growth, spec.max_length_growth, growth <= spec.max_length_growth),
        Guard("truncated", cut, spec.max_truncated, cut <= spec.max_truncated),
    ]
    pushed = curve.curve(base, tuned, Draws(evaluate.resamples, round_.project.seed))
    guards += curve.guard(pushed)
    if "best" in found:
        best = measured(round_, found["evaluation"], found["best"])
        guards.append(across.guard(round_, best["greedy"], tuned["greedy"]))
    others = _others(round_, found.get("others", {}))
    guards += [guard for guard, _ in others.values()]
    verdict = decide(gain, guards, spec.min_gain)
    detail: dict[str, Any] = {
        "promoted": verdict.promoted,
        "reason": verdict.reason,
        "gain": gain._asdict(),
        "prompts": len(prompts),
        "scorer": "gold" if evaluate.gold else evaluate.judge,
        "tasks": {task: gain._asdict() for task, (_, gain) in others.items()},
        "curve": curve.sentence(pushed) if pushed else "",
        "guards": [{"name": g.name, "value": g.value, "limit": g.limit, "ok": g.ok} for g in guards],
    }
    return Outcome(0, 0, detail)


def _others(round_: Round, found: dict[str, Any]) -> dict[str, tuple[Guard, Interval]]:
    """For every other task of the tuning, its own gain, and a guard that trips where it lost more than it may."""
    made: dict[str, tuple[Guard, Interval]] = {}
    for other in round_.project.train.others:
        theirs = together.opened(round_, other)
        task = theirs.project.task.name
        base, tuned = (
            measured(theirs, found[task]["evaluation"], found[task][who])["greedy"] for who in ("base", "tuned")
        )
        prompts = sorted(base.keys() & tuned.keys())
        resamples = round_.project.evaluate.resamples
        gain = paired_gain([base[p] for p in prompts], [tuned[p] for p in prompts], resamples, round_.project.seed)
        lost = max(-gain.mean, 0.0)
        made[task] = (Guard(f"loss_of_{task}", lost, other.max_loss, lost <= other.max_loss), gain)
    return made


def measured(round_: Round, evaluation: str, model: str) -> dict[str, dict[str, float]]:
    """Measurements of one model: metric to prompt to value."""
    from pyspark.sql import functions as f

    rows = round_.lake.read(lake.EVALUATIONS).where((f.col("evaluation") == evaluation) & (f.col("model") == model))
    found: dict[str, dict[str, float]] = {}
    for row in rows.select("metric", "prompt_id", "value").collect():
        found.setdefault(row["metric"], {})[row["prompt_id"]] = row["value"]
    return found


def _mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values) if values else 0.0
