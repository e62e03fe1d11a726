"""One training on two executors, as on two nodes: the curve of one process, and a death that costs little."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from taolake.training.job import TrainJob, TrainResult
from taolake.training.launch import claim, launch
from tests.e2e.toy import job_of, losses, selections, tiny_llama, wait_for_two_checkpoints, weights_of

DRIVE = """
import sys
from pathlib import Path
from taolake.session import local_session
from taolake.training.launch import launch, stored
spark = local_session(sys.argv[1])
launch(stored(Path(sys.argv[2]) / "job.json"), print)
spark.stop()
"""
pytestmark = pytest.mark.slow  # a cluster, and trainings each with their own torch


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_llama(tmp_path_factory.mktemp("base"))


def job(base: str, folder: Path, epochs: float = 4, **settings: object) -> TrainJob:
    rows = [row for row in selections(base) if row["kind"] == "regress"]
    spec = {"epochs": epochs, "learning_rate": 0.003}
    made = job_of(base, folder, rows, "tao", oapl=spec, save_steps=5, warmup={"when": "never"}, **settings)
    return replace(made, warmup=False)


def driver(made: TrainJob) -> "subprocess.Popen[str]":
    """A driver with a cluster of two executors, on this machine, that trains the job on them."""
    claim(Path(made.out), made)
    command = [sys.executable, "-c", DRIVE, "local-cluster[2,1,1024]", made.out]
    return subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def close(a: TrainResult, b: TrainResult, by: float) -> bool:
    one, two = weights_of(a.folder), weights_of(b.folder)
    return all((one[name] - two[name]).abs().max() < by for name in one)


def test_two_executors_give_the_curve_of_one_process(base: str, tmp_path: Path) -> None:
    alone, spread = job(base, tmp_path / "alone"), job(base, tmp_path / "spread", processes=2, executors=True)
    expected = launch(alone)
    with driver(spread) as running:
        said, _ = running.communicate(timeout=300)
    assert running.returncode == 0, said[-4000:]
    assert len(losses(alone)) == len(losses(spread)) >= 10
    assert max(abs(a - b) for a, b in zip(losses(alone), losses(spread), strict=True)) < 1e-3
    assert close(expected, TrainResult.read(Path(spread.out)), 1e-3)
    assert "PROGRESS oapl" in said


def _rank(process: psutil.Process) -> str:
    """Its number among the processes that train; their parents have the variable too."""
    try:
        command = " ".join(process.cmdline())
        trains = "launch.py" in command and "pyspark.ml.torch" not in command and "torch.distributed" not in command
        return str(process.environ().get("RANK", "")) if trains else ""
    except psutil.Error:  # it ended meanwhile
        return ""


def _executors(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if "CoarseGrainedExecutorBackend" in command and "java" in process.name():
            found.append(process)
    return found


@pytest.mark.parametrize("victim", ["rank", "executor"])
def test_a_death_ends_all_and_training_goes_on_at_the_last_checkpoint(base: str, tmp_path: Path, victim: str) -> None:
    whole = launch(job(base, tmp_path / "whole", epochs=40))
    long = job(base, tmp_path / "killed", epochs=40, processes=2, executors=True)
    with driver(long) as running:
        wait_for_two_checkpoints(long, lambda: running.poll() is None)
        below = psutil.Process(running.pid).children(recursive=True)
        ranks = {_rank(process): process for process in below}
        (ranks["1"] if victim == "rank" else _executors(below)[-1]).kill()
        said, _ = running.communicate(timeout=300)
    assert running.returncode != 0 and "a process of the training ended" in said, said[-4000:]
    assert not ranks["0"].is_running()
    with driver(long) as running:
        said, _ = running.communicate(timeout=300)
    assert running.returncode == 0, said[-4000:]
    resumed = TrainResult.read(Path(long.out))
    assert resumed.metrics["resumed_at"] >= 5 and resumed.metrics["steps"] > resumed.metrics["resumed_at"]
    assert close(whole, resumed, 1e-3)
