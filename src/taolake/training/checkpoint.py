"""Run a trainer to its end, from wherever an earlier process left it.

A checkpoint counts only if it is whole: transformers writes `trainer_state.json` last, so a folder without a readable
one was cut off in the middle. Not a launcher; this runs in the training process (and so loads transformers).
"""

import json
import os
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from taolake.training import setup
from taolake.training.job import TrainJob


class Bar:
    """Print one line per percent that the launching process can turn into a bar."""

    def __init__(self, stage: str):
        self.stage = stage
        self.shown = -1

    def to(self, done: int, total: int) -> None:
        """Print `PROGRESS stage done total` when another percent is done."""
        percent = 100 * done // max(1, total)
        if percent != self.shown:
            self.shown = percent
            print(f"PROGRESS {self.stage} {done} {total}", flush=True)


class Progress(TrainerCallback):  # type: ignore[misc]
    """A trainer's steps as a bar."""

    def __init__(self, stage: str):
        self.bar = Bar(stage)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if state.is_world_process_zero:
            self.bar.to(state.global_step, state.max_steps)


def train(trainer: Any, stage: str, job: TrainJob | None = None) -> dict[str, Any]:
    """Train to the end, resuming at the last whole checkpoint.

    Args:
        trainer: of transformers or TRL.
        stage: names the bar.
        job: whose brakes to train with; None trains without.

    Returns:
        `steps`, `resumed_at`, `seconds` of this process, the mean loss of the first and the last tenth, and with brakes
        what the looks said.

    Raises:
        Tripped: the brakes ended it.
    """
    begin = time.monotonic()
    brake = _brake(job)
    if brake is not None:
        trainer.add_callback(brake)
    trainer.add_callback(Progress(stage))
    last = last_whole(Path(trainer.args.output_dir))
    if trainer.args.device.type == "cpu":
        # Of several processes it is cpu:0, cpu:1, ..., which torch.load does not know when the optimiser comes back.
        trainer.args.__dict__["_setup_devices"] = torch.device("cpu")
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    looked = {} if brake is None else {"brakes": brake.finish(trainer.model)}
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tenth = max(1, len(losses) // 10)
    return {
        "steps": trainer.state.global_step,
        "resumed_at": 0 if last is None else _step(last),
        "seconds": round(time.monotonic() - begin, 3),
        "loss_first": sum(losses[:tenth]) / tenth,
        "loss_last": sum(losses[-tenth:]) / tenth,
        **looked,
    }


def _brake(job: TrainJob | None) -> Any:
    if job is None or not job.settings.get("brakes"):
        return None
    from taolake.training.brakes import Brake  # which measures with the trainer that measures progress with this file

    return Brake(job)


def ends(trainer: Any, names: dict[str, str]) -> dict[str, float]:
    """Logged values at the end of training, means over the last tenth of the steps, under names of ours."""
    found = {}
    for logged, ours in names.items():
        values = [entry[logged] for entry in trainer.state.log_history if logged in entry]
        tail = values[-max(1, len(values) // 10) :]
        if tail:
            found[ours] = sum(tail) / len(tail)
    return found


def last_whole(folder: Path) -> Path | None:
    """Newest checkpoint that was written to its end; those cut off are removed."""
    for path in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        if _is_whole(path):
            return path
        if setup.first():
            shutil.rmtree(path)
    return None


def _step(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))


def _is_whole(path: Path) -> bool:
    state = path / "trainer_state.json"
    # A sharded optimiser is put together again to be written, under a name of its own.
    optimizer = any((path / name).exists() for name in ("optimizer.pt", "optimizer.bin"))
    if not (state.exists() and optimizer and (path / "scheduler.pt").exists()):
        return False
    # Each of several processes writes its own random state, and nothing waits for the last of them.
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1 and not all(zipfile.is_zipfile(path / f"rng_state_{rank}.pth") for rank in range(ranks)):
        return False
    try:
        return bool(json.loads(state.read_text(encoding="utf-8"))["global_step"] == _step(path))
    except ValueError:  # a kill in the middle of this write leaves half a JSON text
        return False
