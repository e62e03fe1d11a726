"""Accuracy by the clock: a `tao` round with its generation, against TRL's online GRPO with its own, in one run.

Same base, prompts and verifier, on the embedded example: the planted truth, since online training needs a scorer that
is quick and exact. `tao` has the example's 16 answers a prompt, and once more, from nothing, a quarter of them. Its
clock runs through generating for training, scoring, rewarding, selecting and training. The holdout is answered, scored
and rewarded before, so engine and session are up by then: `engine_up` says what the first start of the engine took,
with its greedy answers to the holdout, and `speed_up_cold` counts that too. GRPO's clock runs through its process from
start to each checkpoint. Checkpoints are graded afterwards, off the clock. What is not measured: GRPO with an engine of
its own, other rates than those below, and models whose answers take long.
"""

import shutil
import time
from pathlib import Path
from typing import Any

import _truth
from _form import Figure, run
from algorithms import graded

from taolake import stages
from taolake.config import Project
from taolake.lake import Lake
from taolake.session import local_session
from taolake.stages import generate, reward, score
from taolake.stages.round import Round, policy
from taolake.training.job import TrainJob
from taolake.training.launch import launch

ROOT = Path(__file__).parents[1]
SEEDS = [7]
STEPS, EVERY = 120, 10
GRPO = {"steps": STEPS, "num_generations": 8, "learning_rate": 1.0e-3}
N = (16, 4)  # answers a prompt
TARGETS = {f"tao_{n}.speed_up": (">=", 2.0) for n in N} | {f"tao_{n}.gain": (">", 0.0) for n in N}


def measure(quick: bool) -> dict[str, Figure]:
    """The arms one after the other; quick has a tenth of GRPO's steps."""
    _truth.here()
    folder = ROOT / "build/bench/online"
    for part in (*(f"n-{n}" for n in N), "grpo"):
        shutil.rmtree(folder / part, ignore_errors=True)
    projects = {n: of(folder / f"n-{n}", n) for n in N}
    spark = local_session(log=folder / "spark.log")
    try:
        arms = {n: Round(Lake(spark, project.lake), project) for n, project in projects.items()}
        found = {n: offline(round_) for n, round_ in arms.items()}
        base = mean(arms[N[0]], arms[N[0]].base)
        online = grpo(arms[N[0]], folder / "grpo", STEPS // 10 if quick else STEPS)
    finally:
        spark.stop()
    figures = {f"tao_{n}": {**arm, "gain": arm["greedy"] - base, **against(arm, online)} for n, arm in found.items()}
    return {"base": base, **figures, "grpo": online}


def of(folder: Path, n: int) -> Project:
    """The example with so many answers a prompt, and the truth in its reward's place."""
    raw = _truth.demo(folder, SEEDS[0])
    raw["generate"]["n"], raw["select"]["best_of"] = n, min(n, raw["select"]["best_of"])
    raw["reward"] = {"require": ["runs"], "weights": {"truth": 1.0}}
    raw["scorers"] = [s for s in raw["scorers"] if s["name"] in ("runs", "truth")]
    raw["trust"] = {"required": False}
    project = Project.model_validate(raw)
    stages.prepare(project)
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


def grpo(round_: Round, folder: Path, steps: int) -> list[dict[str, Any]]:
    """Greedy accuracy and seconds at every checkpoint of one online training."""
    import pyarrow.parquet as pq

    from taolake.stages.select import training_rows

    folder.mkdir(parents=True)
    rows = training_rows(round_, round_.done("select").detail["selection"])
    pq.write_table(rows, folder / "rows.parquet")
    project = round_.project.model_copy(update={"train": round_.project.train.model_copy(update={"algorithm": "grpo"})})
    settings = project.train.model_dump(mode="json") | {
        "grpo": {**GRPO, "steps": steps, "beta": 0.0},
        "save_steps": EVERY,
    }
    job = TrainJob(
        algorithm="grpo",
        base=project.model.path,
        rows=str(folder / "rows.parquet"),
        out=str(folder),
        settings=settings,
        seed=project.seed,
        max_length=project.model.max_model_len,
        dtype=project.model.dtype,
        project=project.model_dump(mode="json", by_alias=True),
    )
    seen: dict[int, float] = {}
    started = time.monotonic()

    def keep(line: str) -> None:
        """Put a checkpoint aside when it is whole: two steps later, before the trainer removes it."""
        words = line.split()
        if words[:2] == ["PROGRESS", "grpo"]:
            step = int(words[2])
            seen.setdefault(step, time.monotonic() - started)
            old = job.work / "grpo" / f"checkpoint-{step - 2}"
            if old.exists():
                shutil.copytree(old, folder / f"kept-{step - 2}", dirs_exist_ok=True)

    result = launch(job, keep)
    seen[steps] = time.monotonic() - started
    made = {int(path.name.removeprefix("kept-")): path for path in folder.glob("kept-*")} | {steps: Path(result.folder)}
    found = []
    for step, adapter in sorted(made.items()):
        right = mean(round_, policy(project.model.path, None, str(adapter)))
        found.append({"step": step, "seconds": seen[step], "greedy": right})
    return found


def against(arm: dict[str, Any], online: list[dict[str, Any]]) -> dict[str, Figure]:
    """How much longer GRPO takes to `tao`'s accuracy; where it never gets there, all its time counts, and more."""
    reached = next((point for point in online if point["greedy"] >= arm["greedy"]), None)
    last = (reached or online[-1])["seconds"]
    cold = last / (arm["seconds"] + arm["engine_up"])
    return {
        "grpo_reached": reached is not None,
        "grpo_seconds": last,
        "speed_up": last / arm["seconds"],
        "speed_up_cold": cold,
    }


def mean(round_: Round, made: Any) -> float:
    """Greedy accuracy of a policy on the holdout."""
    right = graded(round_, made)
    return sum(right.values()) / len(right)


if __name__ == "__main__":
    run("online", measure, TARGETS, SEEDS)
