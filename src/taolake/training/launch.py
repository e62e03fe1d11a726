"""Run a training job in a child process, so that torch's memory leaves with it; and the child's own entry.

    python -m taolake.training.launch <out>/job.json

Not a trainer and not a scheduler: one job, one machine, one child, or with `train.processes` as many as that, which
`TorchDistributor` starts here or on executors. The child dies with its parent, a finished job is answered from its
folder, an interrupted one goes on at its last whole checkpoint.
"""

import ctypes
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from taolake.imports import without
from taolake.training import setup
from taolake.training.job import RESULT, TRIPS, TrainJob, TrainResult, read_trips, write_atomic
from taolake.trust.brakes import BrakeError, Tripped

if TYPE_CHECKING:
    from pyspark.ml.torch.distributor import TorchDistributor

_JOB = "job.json"
_LOG = "train.log"
_PARENT = "TAOLAKE_PARENT"
_PR_SET_PDEATHSIG = 1
_ATTEMPTS = 2
_DISCARDED = 3  # exit code of a child whose training tripped as often as that
# transformers and TRL import these when they are installed, for features no trainer here uses: 14 s of a child's 26.
_UNUSED = ("vllm", "sklearn", "scipy", "mlflow", "PIL")
_FOUR_BIT = "bitsandbytes"  # so does PEFT with this, of which only four-bit weights have need: 4 s more


def launch(job: TrainJob, on_line: Callable[[str], None] | None = None) -> TrainResult:
    """Run the job, or return its stored result.

    Args:
        job: what to train; its folder is made.
        on_line: is told every line the child prints; `PROGRESS stage done total` ones can drive a bar.

    Raises:
        ValueError: the folder belongs to another job.
        BrakeError: training tripped twice; a job that did is not run again.
        RuntimeError: the child failed; the message ends with the tail of its log.
    """
    out = Path(job.out)
    out.mkdir(parents=True, exist_ok=True)
    claim(out, job)
    if not (out / RESULT).exists():
        _refuse_discarded(out)
        run = _run_child if job.processes == 1 else _run_ranks
        run(out, on_line or (lambda line: None))
    return TrainResult.read(out)


def claim(out: Path, job: TrainJob) -> None:
    """Write the job down; a folder that holds another one would resume its checkpoints on the wrong rows."""
    path = out / _JOB
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))["fingerprint"]
        if stored != job.fingerprint:
            raise ValueError(f"{out} holds job {stored}, got {job.fingerprint}: take a new folder or delete this one")
    write_atomic(path, json.dumps({"fingerprint": job.fingerprint, "job": json.loads(job.to_json())}, indent=1))


def _refuse_discarded(out: Path) -> None:
    trips = read_trips(out)
    if len(trips) >= _ATTEMPTS:
        raise BrakeError(trips)


def _command(job_file: Path) -> list[str]:
    """The child's command line."""
    return [sys.executable, "-m", "taolake.training.launch", str(job_file)]


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # TRL refuses several visible GPUs in one process (it would become DataParallel).
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0"),
        _PARENT: str(os.getpid()),
    }


def _run_child(out: Path, on_line: Callable[[str], None]) -> None:
    """Run the child to its end, copying what it prints to the log."""
    tail: deque[str] = deque(maxlen=30)
    child = subprocess.Popen(
        _command(out / _JOB),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=_environment(),
        start_new_session=True,
    )
    assert child.stdout is not None
    try:
        with (out / _LOG).open("a", encoding="utf-8") as log:
            for line in child.stdout:
                log.write(line)
                log.flush()
                tail.append(line)
                on_line(line.rstrip("\n"))
        code = child.wait()
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if code == _DISCARDED:
        _refuse_discarded(out)
    if code != 0:
        raise RuntimeError(f"training ended with code {code}; the end of {out / _LOG}:\n{''.join(tail)}")


def _run_ranks(out: Path, on_line: Callable[[str], None]) -> None:
    """Run the job in several processes, one per GPU where there are some; gloo joins them on CPUs.

    One that dies, alone or with its executor, ends the others and the job; run again, it goes on at the last
    checkpoint.
    """
    from py4j.protocol import Py4JError  # type: ignore[import-untyped]
    from pyspark.errors import PySparkException

    job, reason = stored(out / _JOB), ""
    tail = _Tail(out / _LOG, on_line)
    # Every process sees all GPUs and takes its own; the wrapper that the distributor starts them by dies with us.
    shared = {key: value for key, value in _environment().items() if key not in ("CUDA_VISIBLE_DEVICES", _PARENT)}
    with _variables(shared), tail, redirect_stdout(tail), redirect_stderr(tail):
        try:
            _distributor(job).run(str(Path(__file__).resolve()), str(out / _JOB))
        except (Py4JError, PySparkException) as error:
            reason = f" ({' '.join(str(error).splitlines()[:2])})"
    # The wrapper they are started by ends well whatever becomes of them: the result alone says how it went.
    if not (out / RESULT).exists():
        raise RuntimeError(f"a process of the training ended{reason}; the end of {out / _LOG}:\n{''.join(tail.lines)}")


def _distributor(job: TrainJob) -> "TorchDistributor":
    """What starts the processes: on this machine, or as a barrier stage on executors.

    It asks for a session, which says what GPUs there are: the driver's own, or those of a task. A driver without any
    may have executors with some.
    """
    from pyspark.ml.torch.distributor import TorchDistributor
    from pyspark.sql import SparkSession

    on_executors = bool(job.settings.get("executors"))
    if not on_executors:
        return TorchDistributor(num_processes=job.processes, local_mode=True, use_gpu=setup.has_gpu())
    session = SparkSession.active()
    gpus = float(session.conf.get("spark.task.resource.gpu.amount", "0") or 0)
    return TorchDistributor(num_processes=job.processes, local_mode=False, use_gpu=gpus >= 1)


class _Tail(io.TextIOBase):
    """What processes print, line by line: into the log, to the bar, and the last lines kept.

    It stands in for standard output, and for standard error, on which the distributor repeats what executors print.
    """

    def __init__(self, path: Path, on_line: Callable[[str], None]) -> None:
        self._log, self._on_line = path.open("a", encoding="utf-8"), on_line
        self._screen = sys.stdout, sys.stderr
        self.lines: deque[str] = deque(maxlen=120)  # torchrun adds a trace of its own after the one that matters

    def write(self, text: str) -> int:
        self._log.write(text)
        self._log.flush()
        out, err = self._screen
        with redirect_stdout(out), redirect_stderr(err):  # where the bar belongs
            for line in text.splitlines(keepends=True):
                self.lines.append(line)
                self._on_line(line.rstrip("\n"))
        return len(text)

    def close(self) -> None:
        self._log.close()
        super().close()


@contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for a while: the distributor hands its own on and takes no others."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def stored(path: Path) -> TrainJob:
    """The job of a job file."""
    return TrainJob(**json.loads(path.read_text(encoding="utf-8"))["job"])


def main(argv: Sequence[str]) -> int:
    """Train the job of a job file and write its result; the only code that runs in the child."""
    _die_with_parent()
    if not setup.first():  # one of them tells, on whatever node the others are; what goes wrong is on standard error
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # until the process ends
    job = stored(Path(argv[0]))
    four_bit = (job.settings.get("lora") or {}).get("four_bit")
    with without(*_UNUSED, *(() if four_bit else (_FOUR_BIT,))):
        _load(job)
    result = _attempts(job)
    if result is None:
        return _DISCARDED
    if not setup.first():
        return 0
    result.write(Path(job.out))
    for folder in (job.work, job.eased().work):
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _attempts(job: TrainJob) -> TrainResult | None:
    """Train, once more at half the rate and length where a wire trips, and give up after that; trips are kept."""
    out = Path(job.out)
    trips = read_trips(out)
    while len(trips) < _ATTEMPTS:
        try:
            result = _run(job.eased() if trips else job)
        except Tripped as trip:
            trips.append(trip.evidence)
            write_atomic(out / TRIPS, json.dumps(trips, indent=1, sort_keys=True))
        else:
            return replace(result, metrics={**result.metrics, "trips": trips}) if trips else result
    return None


_TRAINERS = {
    "rft": "SFTTrainer", "dpo": "DPOTrainer", "kto": "KTOTrainer", "grpo": "GRPOTrainer", "rloo": "RLOOTrainer",
    "reward": "RewardTrainer",
}  # fmt: skip


def _load(job: TrainJob) -> None:
    """Import what the job trains with; everything after this finds it in memory."""
    importlib.import_module("taolake.training.checkpoint")
    if job.settings.get("brakes"):
        importlib.import_module("taolake.training.brakes")
    elif job.algorithm not in ("rft", "grpo", "rloo", "reward"):
        importlib.import_module("taolake.training.oapl")
    trainer = "SFTTrainer" if job.algorithm == "tao" and job.warmup else _TRAINERS.get(job.algorithm)
    if trainer:
        getattr(importlib.import_module("trl"), trainer)  # trl's attributes load on first use
    # PEFT asks when it builds an adapter, which is later, and remembers what it was told.
    importlib.import_module("peft.import_utils").is_bnb_available()


def _run(job: TrainJob) -> TrainResult:
    """Hand the job to its algorithm: the module of the same name."""
    result: TrainResult = importlib.import_module(f"taolake.training.{job.algorithm}").run(job)
    return result


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, however it ends."""
    parent = os.environ.pop(_PARENT, None)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit("the parent ended before training began")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
