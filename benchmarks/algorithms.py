"""What goes into the weights of the same stored answers, by each algorithm; three seeds of the embedded example.

Against: the base, the best prompt, best-of-16, and fine-tuning on the labels of the same prompts. `good` is the
example's own reward; `noisy` is a planted one that orders a right and a wrong answer rightly four times in five.
Intervals resample prompts of all seeds together. What is not measured: larger models, other tasks, tuned rates; the
settings are those below, chosen once. Online algorithms make their own answers and see more of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import _truth
from _form import Figure, run
from _resume import one_run

from taolake import stages
from taolake.config import Project
from taolake.lake import Lake
from taolake.session import local_session
from taolake.stages import evaluate, gate, generate, groups
from taolake.stages.answer import Cells
from taolake.stages.round import Round
from taolake.types import Policy
from taolake.verdict import bake_in, bootstrap, paired_gain

FOLDER = Path(__file__).parents[1] / "build/bench/algorithms"
SEEDS = [7, 8, 9]
RESAMPLES = 5000
SETTINGS: dict[str, dict[str, Any]] = {
    "rft": {"warmup": {"when": "always", "epochs": 6, "learning_rate": 2.0e-3}},
    "dpo": {"dpo": {"epochs": 3, "learning_rate": 1.0e-3}},
    "kto": {"kto": {"epochs": 2, "learning_rate": 1.0e-3}},
    "bond": {"bond": {"epochs": 1, "learning_rate": 5.0e-4}},
    "tao": {},
    "grpo": {"grpo": {"steps": 40, "num_generations": 8, "learning_rate": 1.0e-3}},
}
NOISY = ("rft", "tao")
ARMS = [*SETTINGS, *(f"{name}_noisy" for name in NOISY), "labelled"]
QUICK = ["rft", "tao", "labelled"]
TARGETS = {
    "tao.bake_in": (">=", 0.8), "tao.pass_at_16_change.low": (">", -0.02), "noise_kept": (">=", 0.5),
    "tao_over_rft_when_noisy": (">", 0.0), "tao_over_labelled.low": (">", -0.02),
}  # fmt: skip

PerPrompt = dict[str, float]


def measure(quick: bool) -> dict[str, Figure]:
    """Every arm on every seed; figures by arm."""
    _truth.here()
    arms = QUICK if quick else ARMS
    with one_run(FOLDER, "seed-*", quick=quick):
        spark = local_session(log=FOLDER / "spark.log")
        try:
            found = [one_seed(spark, seed, arms) for seed in (SEEDS[:1] if quick else SEEDS)]
        finally:
            spark.stop()
    pooled = {
        name: {metric: joined([seed[name][metric] for seed in found]) for metric in found[0][name]} for name in found[0]
    }
    figures = figures_of(pooled)
    return {**figures, **contrasts(pooled, figures)}


def one_seed(spark: Any, seed: int, arms: Sequence[str]) -> dict[str, dict[str, PerPrompt]]:
    """A round per arm over one lake; values by arm, metric and prompt."""
    folder, found = FOLDER / f"seed-{seed}", dict[str, dict[str, PerPrompt]]()
    for number, arm in enumerate(arms, start=1):
        project = project_of(folder, seed, arm)
        stages.prepare(project)
        round_ = Round(Lake(spark, project.lake), project, number)
        for stage in stages.STAGES:
            print(f"seed {seed}, {arm}: {stage.name}", flush=True)
            stages.run(round_, stage.name)
            if stage.name == "evaluate":
                break
        said = round_.done("evaluate").detail
        base, tuned = (_tagged(gate.measured(round_, said["evaluation"], said[who]), seed) for who in ("base", "tuned"))
        found[arm] = tuned
        if "base" not in found:
            found["base"] = base
            found["best_of_n"] = {"greedy": base["best_of_n"]}
            first = round_
    print(f"seed {seed}: the best prompt", flush=True)
    found["best_prompt"] = {"greedy": tag(best_prompt(first), seed)}
    return found


def project_of(folder: Path, seed: int, arm: str) -> Project:
    """The example's project file with the arm's algorithm; its reward replaced where it is noisy, its winners by labels
    of the same prompts where it is the labelled one."""
    raw, name = _truth.demo(folder, seed), "rft" if arm == "labelled" else arm.removesuffix("_noisy")
    if arm == "labelled":
        raw["select"]["labels"] = {"path": _truth.labels(folder, raw), "alone": True}
    raw["train"] |= {"algorithm": name, **SETTINGS[name]}
    if arm.endswith("_noisy"):
        raw["reward"] = {"require": ["runs"], "weights": {"noisy": 1.0}}
        raw["trust"] = {"above_chance": False, "min_accuracy": None}
    return Project.model_validate(raw)


def graded(round_: Round, made: Policy) -> PerPrompt:
    """Greedy accuracy of a policy by holdout prompt, graded as the evaluate stage does."""
    generate.fill(round_, made, [c for c in generate.holdout_cells(round_.project) if c.stream == "G"])
    return _right(round_, made, "stream = 'G'")


def best_prompt(round_: Round) -> PerPrompt:
    """Greedy accuracy of the base under the prompt that answers the holdout best; chosen on it, and so flattered."""
    found = []
    for strategy in round_.project.generate.strategies:
        cold = strategy.model_copy(update={"temperature": 0.0, "name": f"cold_{strategy.name}"})
        generate.fill(round_, round_.base, [Cells("holdout", cold, 1)])
        found.append(_right(round_, round_.base, f"strategy = '{cold.id}'"))
    return max(found, key=lambda right: sum(right.values()))


def figures_of(pooled: Mapping[str, Mapping[str, PerPrompt]]) -> dict[str, Figure]:
    """Each arm's accuracy with its interval, gain over the base, bake-in and change of pass@16."""
    base, ceiling = pooled["base"], pooled["best_of_n"]["greedy"]
    found: dict[str, Figure] = {}
    for name, metrics in pooled.items():
        right = metrics["greedy"]
        prompts = sorted(right.keys() & base["greedy"].keys() & ceiling.keys())
        before, after = [base["greedy"][p] for p in prompts], [right[p] for p in prompts]
        figures: dict[str, Figure] = {"greedy": bootstrap(after, RESAMPLES, 0)._asdict(), "prompts": len(prompts)}
        if name != "base":
            share = bake_in(before, after, [ceiling[p] for p in prompts], RESAMPLES, 0)
            figures |= {"gain": paired_gain(before, after, RESAMPLES, 0)._asdict(), "bake_in": share and share.mean}
        if "pass_at_16" in metrics and name != "base":
            wide = sorted(metrics["pass_at_16"].keys() & base["pass_at_16"].keys())
            pairs = ([m["pass_at_16"][p] for p in wide] for m in (base, metrics))
            figures["pass_at_16_change"] = paired_gain(*pairs, RESAMPLES, 0)._asdict()
        found[name] = figures
    return found


def contrasts(pooled: Mapping[str, Mapping[str, PerPrompt]], figures: Mapping[str, Figure]) -> dict[str, Figure]:
    """What is asked of `tao` against the others; what was not run is left out, and its target missed."""
    found: dict[str, Figure] = {"tao_over_labelled": _over(pooled, "labelled", "tao")}
    if "tao_noisy" in figures:
        found["noise_kept"] = figures["tao_noisy"]["gain"]["mean"] / max(figures["tao"]["gain"]["mean"], 1e-9)
        found["tao_over_rft_when_noisy"] = _over(pooled, "rft_noisy", "tao_noisy")["mean"]
    return found


def _over(pooled: Mapping[str, Mapping[str, PerPrompt]], one: str, other: str) -> dict[str, float]:
    before, after = (pooled[name]["greedy"] for name in (one, other))
    prompts = sorted(before.keys() & after.keys())
    return paired_gain([before[p] for p in prompts], [after[p] for p in prompts], RESAMPLES, 0)._asdict()


def _right(round_: Round, made: Policy, where: str) -> PerPrompt:
    gold = round_.project.evaluate.gold
    assert gold is not None
    labels = evaluate.read_labels(round_.project.task.name, gold, round_.project.ingest.system)
    rows = groups.candidates(round_, made).where(f"split = 'holdout' AND {where}").select("prompt_id", "text")
    return {
        row["prompt_id"]: float(evaluate.comparer(gold, labels[row["prompt_id"]])(row["text"] or ""))
        for row in rows.collect()
        if row["prompt_id"] in labels
    }


def _tagged(metrics: Mapping[str, Mapping[str, float]], seed: int) -> dict[str, PerPrompt]:
    return {name: tag(values, seed) for name, values in metrics.items()}


def tag(values: Mapping[str, float], seed: int) -> PerPrompt:
    """Values by seed and prompt: two seeds may ask the same."""
    return {f"{seed} {prompt}": value for prompt, value in values.items()}


def joined(parts: Sequence[PerPrompt]) -> PerPrompt:
    """Prompts of all seeds together."""
    return {prompt: value for part in parts for prompt, value in part.items()}


if __name__ == "__main__":
    run("algorithms", measure, TARGETS, SEEDS)
