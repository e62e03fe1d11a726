"""Accuracy by the clock: a `tao` round with its generation, against TRL's online GRPO with its own, in one run.

Same base, prompts and verifier, on the embedded example: the planted truth, since online training needs a scorer that
is quick and exact. Two bases, a race each with the same settings: `often` is the example's; `rare` learned from a
writer who follows a convention a tenth as often unless thinking step by step, so a plain answer is seldom right where
one is needed. `tao` has the example's 16 answers a prompt, and from nothing again 8, as many as GRPO, and 4. Its clock
runs through generating for training, scoring, rewarding, selecting and training. The holdout is answered, scored and
rewarded before, so engines and session are up by then: `engine_up` says what the first start of the engines took, with
their greedy answers to the holdout, and `speed_up_cold` counts that too. GRPO is trained three times, with 16, 32 and
64 answers a step; its clock runs through its process from start to each checkpoint, and `speed_up` takes the first
checkpoint of any of the three that is as good, which favours it: nobody knows beforehand which that is. Where none is,
`grpo_reached` is false and the ratio, of the longest training, a lower bound. Checkpoints are graded afterwards, off
the clock. What is not measured: GRPO with an engine of its own, other rates than those below, and models whose answers
take long.
"""

import shutil
import sys
import time
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

import _truth
from _form import Figure, run
from algorithms import graded

from taolake import demo, stages
from taolake.config import Project
from taolake.demo import model, questions
from taolake.lake import Lake
from taolake.session import local_session
from taolake.stages import generate, reward, score
from taolake.stages.round import Round, policy
from taolake.training.job import TrainJob
from taolake.training.launch import launch

ROOT = Path(__file__).parents[1]
SEEDS = [7, 8, 9]
GRPO = {"num_generations": 8, "learning_rate": 1.0e-3, "beta": 0.0}
ANSWERS, BATCHES, LOOKS = 7_680, (16, 32, 64), 12  # of one online training; a step's, a training each; checkpoints
TAO = {"oapl": {"epochs": 1}}  # one pass is enough here, where rewards are the truth
N = (16, 8, 4)  # answers a prompt
BASES = {"often": 1.0, "rare": 0.1}  # how often the base's writer is careful, see `questions.pretraining_pairs`
TARGETS = {
    f"{base}.tao_{n}.{figure}": rule
    for base in BASES
    for n in N
    for figure, rule in {"speed_up": (">=", 2.0), "gain_min": (">", 0.0)}.items()
}


def measure(quick: bool) -> dict[str, Figure]:
    """Both bases; quick is the first seed, with a tenth of GRPO's answers."""
    _truth.here()
    return {base: race(base, SEEDS[:1] if quick else SEEDS, ANSWERS // 10 if quick else ANSWERS) for base in BASES}


def race(base: str, seeds: list[int], answers: int) -> dict[str, Figure]:
    """One base: every seed by itself, and what they say together."""
    found = {str(seed): seed_of(base, seed, answers) for seed in seeds}
    return {"seed": found, **{f"tao_{n}": together([seed[f"tao_{n}"] for seed in found.values()]) for n in N}}


def together(arms: list[dict[str, Any]]) -> dict[str, Figure]:
    """One arm over the seeds: the ratios' geometric means and the smallest, means of the rest."""
    means = {name: fmean(arm[name] for arm in arms) for name in ("seconds", "greedy")}
    ratios = {name: geometric_mean(arm[name] for arm in arms) for name in arms[0] if name.startswith("speed_up")}
    least = {f"{name}_min": min(arm[name] for arm in arms) for name in ("speed_up", "gain")}
    return {**means, **ratios, **least, "grpo_reached": sum(arm["grpo_reached"] for arm in arms)}


def seed_of(named: str, seed: int, answers: int) -> dict[str, Figure]:
    """The arms of one seed, one after the other."""
    folder = ROOT / f"build/bench/online/{named}-{seed}"
    for part in (*(f"n-{n}" for n in N), *(f"grpo-{batch}" for batch in BATCHES)):
        shutil.rmtree(folder / part, ignore_errors=True)
    projects = {n: of(folder / f"n-{n}", n, seed, BASES[named]) for n in N}
    spark = local_session(f"local[{projects[N[0]].engine.devices + 1}]", log=folder / "spark.log")
    try:
        arms = {n: Round(Lake(spark, project.lake), project) for n, project in projects.items()}
        found = {n: offline(round_) for n, round_ in arms.items()}
        base = mean(arms[N[0]], arms[N[0]].base)
        online = {f"grpo_{batch}": grpo(arms[N[0]], folder / f"grpo-{batch}", answers, batch) for batch in BATCHES}
    finally:
        spark.stop()
    figures = {f"tao_{n}": {**arm, "gain": arm["greedy"] - base, **against(arm, online)} for n, arm in found.items()}
    print(f"{named}, seed {seed}, base {base:.3f}: {figures} {online}", file=sys.stderr, flush=True)
    return {"base": base, **figures, **online}


def of(folder: Path, n: int, seed: int, care: float) -> Project:
    """The example with so many answers a prompt, a base of so careful a writer, and the truth in its reward's place."""
    raw = _truth.demo(folder, seed)
    raw["generate"]["n"], raw["select"]["best_of"] = n, min(n, raw["select"]["best_of"])
    raw["reward"] = {"require": ["runs"], "weights": {"truth": 1.0}}
    raw["scorers"] = [s for s in raw["scorers"] if s["name"] in ("runs", "truth")]
    raw["trust"] = {"required": False}
    raw["train"] |= {name: raw["train"][name] | values for name, values in TAO.items()}
    project = Project.model_validate(raw)
    demo.write_inputs(project)
    cached = folder.parent / f"cache/model-{model.model_key(seed)}"
    if not cached.exists():
        model.fit(cached, questions.pretraining_pairs(seed, model.CORPUS_SIZE, care), seed)
    demo.put_copy(cached, Path(project.model.path))
    return project


def offline(round_: Round) -> dict[str, Any]:
    """Seconds of the stages that make the tuned policy, the holdout's part left out; its greedy accuracy."""
    stages.run(round_, "ingest")
    started = time.monotonic()
    generate.fill(round_, round_.base, [c for c in generate.holdout_cells(round_.project) if c.stream == "G"])
    engine_up = time.monotonic() - started
    generate.fill(round_, round_.base, [c for c in generate.base_cells(round_.project) if c.split != "train"])
    score.fill(round_, round_.base)
    reward.fill(round_, round_.base)
    seconds: dict[str, float] = {}
    for name in ("generate", "label", "score", "reward", "trust", "select", "train"):
        started = time.monotonic()
        stages.run(round_, name)
        seconds[name] = time.monotonic() - started
    right = mean(round_, round_.tuned)
    return {"seconds": sum(seconds.values()), "stages": seconds, "engine_up": engine_up, "greedy": right}


def grpo(round_: Round, folder: Path, answers: int, batch: int) -> list[dict[str, Any]]:
    """Greedy accuracy and seconds at every checkpoint of one online training, with so many answers a step."""
    import pyarrow.parquet as pq

    from taolake.stages.select import training_rows

    folder.mkdir(parents=True)
    rows = training_rows(round_, round_.done("select").detail["selection"])
    pq.write_table(rows, folder / "rows.parquet")
    steps = answers // batch
    train = round_.project.train.model_copy(update={"algorithm": "grpo", "batch_size": batch})
    project = round_.project.model_copy(update={"train": train})
    own = {"grpo": {**GRPO, "steps": steps}, "save_steps": max(1, steps // LOOKS)}
    job = TrainJob(
        algorithm="grpo",
        base=project.model.path,
        rows=str(folder / "rows.parquet"),
        out=str(folder),
        settings=train.model_dump(mode="json") | own,
        seed=project.seed,
        max_length=project.model.max_model_len,
        dtype=project.model.dtype,
        project=project.model_dump(mode="json", by_alias=True),
    )
    told = [(0, 0.0)]  # steps done, and after how long: not every step is told
    started = time.monotonic()

    def keep(line: str) -> None:
        """Put checkpoints aside when they are whole, two steps later, before the trainer removes them."""
        words = line.split()
        if words[:2] == ["PROGRESS", "grpo"]:
            told.append((int(words[2]), time.monotonic() - started))
            for old in (job.work / "grpo").glob("checkpoint-*"):
                aside = folder / old.name.replace("checkpoint", "kept")
                if step_of(old) <= told[-1][0] - 2 and not aside.exists():
                    shutil.copytree(old, aside)

    result = launch(job, keep)
    ended = time.monotonic() - started
    made = [(step_of(path), str(path)) for path in folder.glob("kept-*") if step_of(path) < steps]
    found = []
    for step, adapter in [*sorted(made), (steps, result.folder)]:
        seconds = max(seconds for done, seconds in told if done <= step) if step < steps else ended
        right = mean(round_, policy(job.base, None, adapter))
        found.append({"step": step, "seconds": seconds, "greedy": right})
    return found


def step_of(path: Path) -> int:
    """Steps that a checkpoint's folder is named by."""
    return int(path.name.rpartition("-")[2])


def against(arm: dict[str, Any], online: dict[str, list[dict[str, Any]]]) -> dict[str, Figure]:
    """How much longer online training takes to `tao`'s accuracy: the quickest of them, and each by itself."""
    seconds, reached = until(arm["greedy"], [point for training in online.values() for point in training])
    each = {f"speed_up_{name}": until(arm["greedy"], points)[0] / arm["seconds"] for name, points in online.items()}
    cold = seconds / (arm["seconds"] + arm["engine_up"])
    found = {"grpo_seconds": seconds, "grpo_reached": reached, "speed_up": seconds / arm["seconds"]}
    return {**found, "speed_up_cold": cold, **each}


def until(greedy: float, points: list[dict[str, Any]]) -> tuple[float, bool]:
    """Seconds to the first checkpoint that good; to the last of all where none is, which is a lower bound."""
    reached = [point["seconds"] for point in points if point["greedy"] >= greedy]
    return (min(reached), True) if reached else (max(point["seconds"] for point in points), False)


def mean(round_: Round, made: Any) -> float:
    """Greedy accuracy of a policy on the holdout."""
    right = graded(round_, made)
    return sum(right.values()) / len(right)


if __name__ == "__main__":
    run("online", measure, TARGETS, SEEDS)
