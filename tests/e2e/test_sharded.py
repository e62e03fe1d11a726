"""Full weights split between two processes (FSDP2): those of one process, a whole model on disk, and exact resume."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from taolake.training import launch as entry
from taolake.training.job import TrainJob, TrainResult
from tests.e2e.toy import job_of, selections, tiny_llama, wait_for_two_checkpoints, weights_of

# accelerate splits on accelerators alone, torch itself on CPUs too: what it asks for is said to be there.
ON_CPUS = """
import runpy, sys
from accelerate.state import DistributedType, PartialState

made = PartialState.__init__

def joined(self, *args, **kwargs):
    made(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU

PartialState.__init__ = joined
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def job(base: str, folder: Path, **settings: object) -> TrainJob:
    """A warm-up, then the regression."""
    spec = {"learning_rate": 0.001}
    stages = {"warmup": {"epochs": 6, **spec}, "oapl": {"epochs": 4, **spec}}
    return job_of(base, folder, selections(base), "tao", lora=None, save_steps=3, **stages, **settings)


def started(made: TrainJob) -> "subprocess.Popen[str]":
    """Two processes on this machine, as `TorchDistributor` starts them on one with two GPUs."""
    entry.claim(Path(made.out), made)
    script = Path(made.out) / "on_cpus.py"
    script.write_text(ON_CPUS)
    spread = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    command = [sys.executable, *spread, str(Path(entry.__file__).resolve()), f"{made.out}/job.json"]
    return subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def trained(made: TrainJob) -> TrainResult:
    with started(made) as running:
        said, _ = running.communicate(timeout=300)
    assert running.returncode == 0, said[-6000:]
    return TrainResult.read(Path(made.out))


def apart(a: TrainResult, b: TrainResult) -> float:
    one, two = weights_of(a.folder), weights_of(b.folder)
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


@pytest.mark.slow  # four trainings, each with its own torch
def test_split_weights_give_those_of_one_process_and_resume(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base")
    whole = entry.launch(job(base, tmp_path / "whole"))
    split = trained(job(base, tmp_path / "split", processes=2, shard=True))
    assert split.kind == "model"
    assert apart(whole, split) < 1e-3
    assert json.loads(Path(split.folder, "config.json").read_text())["dtype"] == "float32"

    killed = job(base, tmp_path / "killed", processes=2, shard=True)
    with started(killed) as running:
        wait_for_two_checkpoints(killed, lambda: running.poll() is None)
        assert list(killed.work.glob("oapl/checkpoint-*/pytorch_model_fsdp.bin")), "the weights were not split"
        below = psutil.Process(running.pid).children(recursive=True)
        next(process for process in below if process.environ().get("RANK") == "1").kill()
        running.communicate(timeout=300)
    assert running.returncode != 0
    resumed = trained(killed)
    assert resumed.metrics["resumed_at"] >= 3
    assert apart(split, resumed) < 1e-4
