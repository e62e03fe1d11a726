"""A training job on a machine with neither Spark nor the lake, such as a node of Databricks' AI Runtime.

    python -m taolake.training.elsewhere WORK

The stage writes its job into the work folder and says so in `handed_over.json`; this trains it on the machine's own
disk, one process a GPU, and puts what came out where the stage finds it as done. Not here: who starts the machine
(variants/train_on_ai_runtime.yml), or how a job is trained (`launch`).
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from taolake.training import launch
from taolake.training.job import RESULT, TrainJob, write_atomic

_NOTE = "handed_over.json"
_ONE_S_OWN = ("job.json",)  # names the stage's folders, and is what it knows its job by
_MARKS = ("trainer_state.json", RESULT)  # of a whole checkpoint, and of a whole training


def hand_over(work: Path, job: TrainJob, model: str, revision: str | None) -> None:
    """Write a job down for another machine.

    Args:
        work: the project's work folder, which that machine sees too.
        job: its folder and rows lie in there.
        model: of the project file; a hub id is fetched anew over there.
        revision: of the model on its hub.

    Raises:
        ValueError: the job's folder belongs to another one.
    """
    out = Path(job.out)
    launch.claim(out, job)
    said = {"folder": str(out.relative_to(work)), "model": model, "revision": revision}
    write_atomic(work / _NOTE, json.dumps(said, indent=1, sort_keys=True))


def main(argv: Sequence[str]) -> int:
    """Train what was handed over, unless it has a result; the code is that of the training."""
    work = Path(argv[0])
    said = json.loads((work / _NOTE).read_text(encoding="utf-8"))
    home = work / said["folder"]
    if (home / RESULT).exists():
        return 0
    with tempfile.TemporaryDirectory(prefix="taolake-") as here:
        local = Path(here) / home.name
        shutil.copytree(home, local)
        job = _here(launch.stored(local / "job.json"), local, said["model"], said["revision"])
        write_atomic(local / "job.json", json.dumps({"fingerprint": job.fingerprint, "job": dataclasses.asdict(job)}))
        try:
            return subprocess.run(_command(job), env={**os.environ, "PYTHONUNBUFFERED": "1"}, check=False).returncode
        finally:  # checkpoints too: another machine goes on from them
            bring_home(local, home)


def bring_home(local: Path, home: Path) -> None:
    """Copy what was made; what says that something is whole comes last, so that no kill makes it say so wrongly."""
    shutil.copytree(local, home, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_ONE_S_OWN, *_MARKS))
    for mark in _MARKS:
        for path in local.rglob(mark):
            write_atomic(home / path.relative_to(local), path.read_text(encoding="utf-8"))


def _here(job: TrainJob, local: Path, model: str, revision: str | None) -> TrainJob:
    """The job with the places it has on this machine."""
    base = model
    if not Path(model).is_dir():
        from huggingface_hub import snapshot_download

        base = str(snapshot_download(model, revision=revision))
    return dataclasses.replace(job, base=base, rows=str(local / Path(job.rows).name), out=str(local))


def _command(job: TrainJob) -> list[str]:
    """What trains it: the entry of `launch`, as often as the job has processes."""
    entry = [str(Path(launch.__file__).resolve()), str(Path(job.out) / "job.json")]
    if job.processes == 1:
        return [sys.executable, *entry]
    spread = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(job.processes)]
    return [sys.executable, *spread, *entry]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
