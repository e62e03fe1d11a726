"""Train: the selection goes into the weights, in a process of its own, resumable at any checkpoint.

The algorithms are in `taolake.training`; the result's location and content hash are recorded in `rounds`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taolake import databricks, ids
from taolake.config import Project
from taolake.stages import fingerprints, together
from taolake.stages.reward_model import train_reward_model
from taolake.stages.round import Outcome, Round, policy
from taolake.training import elsewhere
from taolake.training.job import TrainJob


def train(round_: Round) -> Outcome:
    """Train on this round's selection; returns the tuned policy in its detail."""
    project = round_.project
    job, seen = _job(round_)
    with round_.training_bar("train") as on_line:
        result = databricks.launch(job, on_line)
    adapter = result.folder if result.kind == "adapter" else None
    made = policy(
        project.model.path if adapter else result.folder, project.model.revision if adapter else None, adapter
    )
    detail: dict[str, Any] = {
        "policy": made.id,
        "model": made.model,
        "revision": made.revision,
        "adapter": made.adapter,
    }
    detail |= {"warmup": job.warmup, "metrics": result.metrics, "tasks": seen}
    return Outcome(0, result.metrics.get("tokens", 0), detail)


def hand_over(round_: Round) -> Outcome:
    """Write this round's training down for a machine without Spark; `train` then finds it done.

    Raises:
        ValueError: it scores answers while it trains, which needs the round's scorers at hand; or wants executors.
    """
    project = round_.project
    if project.train.executors:
        raise ValueError(
            "train.executors is true, and a machine without Spark has none: set it to false, or leave "
            "train_on_ai_runtime out of the bundle"
        )
    job, seen = _job(round_)
    if job.project is not None:
        raise ValueError(
            f"train.algorithm {project.train.algorithm} scores answers while it trains, and train.brakes do; only "
            "others can be trained elsewhere: leave train_on_ai_runtime out of the bundle"
        )
    elsewhere.hand_over(Path(project.work), job, project.model.path, project.model.revision)
    return Outcome(0, 0, {"folder": job.out, "processes": job.processes, "tasks": seen})


def _job(round_: Round) -> tuple[TrainJob, Any]:
    """The job, its rows written beside it; and how often each task's rows are seen."""
    import pyarrow.parquet as pq

    project = round_.project
    picked = round_.done("select").detail
    table, seen = together.rows(round_, picked["selection"])
    name = ids.content_hash(fingerprints(project)["train"], together.content_of(table))
    folder = round_.work / f"train-{name[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "selection.parquet"
    pq.write_table(table, rows)
    scored = project.train.online or project.train.brakes is not None
    job = TrainJob(
        algorithm=project.train.algorithm,
        base=round_.base_folder,
        rows=str(rows),
        out=str(folder),
        settings=project.train.used,
        seed=project.seed,
        max_length=project.model.max_model_len,
        dtype=project.model.dtype,
        warmup=warms_up(project, picked, "imitate" in table["kind"].to_pylist()),
        project=project.model_dump(mode="json", by_alias=True) if scored else None,
        reward_model=_reward_models(round_) if scored else None,
    )
    return job, seen


def warms_up(project: Project, picked: Mapping[str, Any], winners: bool) -> bool:
    """Imitate winners first when many candidates fail verifiers, other strategies win often, or labels are there."""
    when = project.train.warmup.when
    needed = picked["pass_rate"] < 0.9 or picked["stream_b_wins"] > 0.3 or project.select.labels is not None
    return when == "always" or (when == "auto" and needed and winners)


def _reward_models(round_: Round) -> dict[str, str] | None:
    """Folders of the reward models that have a say in the reward, by scorer."""
    said = round_.project.reward.reads
    models = [spec for spec in round_.project.scorers if spec.kind == "reward_model" and spec.name in said]
    return {spec.name: str(Path(train_reward_model(round_, spec).folder)) for spec in models} or None
