"""One training in two processes, by Spark's TorchDistributor: the same loss curve, and a death that costs little."""

import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession

from taolake.config import Train
from taolake.training.job import TrainJob, TrainResult
from taolake.training.launch import launch
from tests.e2e.toy import job_of, losses, selections, tiny_llama, wait_for_two_checkpoints, weights_of


def job(base: str, folder: Path, processes: int, epochs: float = 4) -> TrainJob:
    rows = [row for row in selections(base) if row["kind"] == "regress"]
    spec = {"epochs": epochs, "learning_rate": 0.003}
    made = job_of(base, folder, rows, "tao", processes=processes, oapl=spec, save_steps=5, warmup={"when": "never"})
    return replace(made, warmup=False)


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"algorithm": "grpo"}, "several processes train tao, rft, bond"),
        ({"brakes": {}}, "without brakes"),
        ({"batch_size": 9}, "no multiple of train.processes 2"),
        ({"processes": 1, "executors": True}, "train.executors needs several processes"),
        ({"processes": 1, "shard": True}, "train.shard needs several processes"),
        ({"shard": True}, "splits all weights, got train.lora"),
    ],
)
def test_what_several_processes_cannot_share_is_refused(given: dict[str, object], wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        Train.model_validate({"processes": 2, "batch_size": 8, **given})


@pytest.mark.slow  # four trainings, each with its own torch
def test_two_processes_give_the_curve_of_one_and_survive_a_death(spark: SparkSession, tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base")
    jobs = [job(base, tmp_path / str(n), n) for n in (1, 2)]
    one, two = map(launch, jobs)
    curves = [losses(each) for each in jobs]
    assert len(curves[0]) == len(curves[1]) == one.metrics["steps"] == two.metrics["steps"] >= 10
    assert max(abs(a - b) for a, b in zip(*curves, strict=True)) < 1e-3
    assert max(curves[0]) - min(curves[0]) > 1e-2, "a flat curve would equal anything"
    weights = [weights_of(each.folder) for each in (one, two)]
    assert all((weights[0][name] - weights[1][name]).abs().max() < 1e-3 for name in weights[0])

    long = job(base, tmp_path / "killed", 2, epochs=40)
    _kill_one_rank(long)
    resumed = launch(long)
    assert resumed.metrics["resumed_at"] >= 5 and resumed.metrics["steps"] > resumed.metrics["resumed_at"]
    whole = weights_of(launch(job(base, tmp_path / "whole", 2, epochs=40)).folder)
    again = weights_of(resumed.folder)
    assert all((again[name] - whole[name]).abs().max() < 1e-4 for name in whole)


def _kill_one_rank(started: TrainJob) -> None:
    """Kill -9 the second process once there are two checkpoints, one of them whole; the other must not go on alone."""
    ended: list[TrainResult | RuntimeError] = []

    def run() -> None:
        try:
            ended.append(launch(started))
        except RuntimeError as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for_two_checkpoints(started, thread.is_alive)
    ranks = {_rank(process): process for process in psutil.Process().children(recursive=True)}
    ranks["1"].kill()
    thread.join(120)
    assert isinstance(ended[0], RuntimeError) and "a process of the training ended" in str(ended[0])
    assert not ranks["0"].is_running()


def _rank(process: psutil.Process) -> str:
    try:
        return str(process.environ().get("RANK", ""))
    except psutil.Error:  # it ended meanwhile
        return ""
