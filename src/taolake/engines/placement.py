"""Which device an engine gets, and how many threads: from Spark's task, the environment, and what the machine has.

What says more wins: an address that Spark gave this task, then `CUDA_VISIBLE_DEVICES`, then all GPUs there are, then
the CPU. Not here: keeping two engines off one device (`reaper`).
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from taolake.config import EndpointEngine, EngineSpec, FakeEngine, VllmEngine
from taolake.engines import reaper

if TYPE_CHECKING:
    from pyspark.resource import ResourceProfile
    from pyspark.sql import SparkSession

_VISIBLE = "CUDA_VISIBLE_DEVICES"
log = logging.getLogger(__name__)


def visible(environment: Mapping[str, str]) -> tuple[str, ...] | None:
    """Devices the environment shows, as it names them (numbers, GPU or MIG UUIDs); None when it does not say.

    As CUDA reads it: what follows a name that is no device is hidden too.
    """
    said = environment.get(_VISIBLE)
    if said is None:
        return None
    names: list[str] = []
    for name in (part.strip() for part in said.split(",")):
        if not (name.isdigit() or name.startswith(("GPU-", "MIG-"))) or name in names:
            break
        names.append(name)
    return tuple(names)


def choose(addresses: Sequence[str], shown: Sequence[str] | None, present: Sequence[str]) -> tuple[str, ...]:
    """Devices a task may take, named as CUDA_VISIBLE_DEVICES names them; empty on a CPU.

    Args:
        addresses: what Spark assigned to the task; none in local mode.
        shown: what the environment shows (`visible`).
        present: what the machine has.

    Raises:
        ValueError: Spark's address is not among what the environment shows.
    """
    if shown is None:
        return tuple(addresses or present)
    if not addresses:
        return tuple(shown)
    if all(address in shown for address in addresses):
        return tuple(addresses)
    if len(shown) == len(addresses):
        return tuple(shown)  # a plugin has set the task's own devices already, and counts from 0 inside them
    if all(address.isdigit() and int(address) < len(shown) for address in addresses):
        return tuple(shown[int(address)] for address in addresses)
    raise ValueError(
        f"Spark assigned GPU {list(addresses)}, but {_VISIBLE} shows {list(shown)}: let both name the same devices, or "
        "unset it on the executors"
    )


def rotated(names: Sequence[str], partition: int, group: int) -> tuple[str, ...]:
    """The devices from the partition's own on, in whole groups: tasks of a job then start at different ones.

    Raises:
        ValueError: there are fewer than one group.
    """
    groups = len(names) // group
    if not groups:
        raise ValueError(
            f"got {len(names)} devices, wanted {group} for one engine: lower tensor_parallel_size in engine.options, "
            "or give a task more GPUs (spark.task.resource.gpu.amount)"
        )
    start = partition % groups * group
    whole = list(names[: groups * group])
    return tuple(whole[start:] + whole[:start])


def threads(cores: int, engines: int) -> int:
    """OpenMP threads of an engine that shares the cores with others."""
    return max(1, cores // max(1, engines))


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Place:
    """Where a task's engine may run.

    Attributes:
        names: devices as `reaper` locks them, the task's own first; none for an endpoint.
        group: how many of them one engine takes.
        gpus: the same as CUDA names them; empty on a CPU.
        host: whether the engine belongs into a process of its own (`taolake.engines.host`).
    """

    names: tuple[str, ...] = ()
    group: int = 1
    gpus: tuple[str, ...] = ()
    host: bool = False


def place(spec: EngineSpec) -> Place:
    """Where this task's engine may run.

    Raises:
        ValueError: Spark and the environment contradict each other, or there are too few devices.
    """
    if isinstance(spec, EndpointEngine):
        return Place()
    partition, addresses = _task()
    group = spec.tensor_parallel if isinstance(spec, VllmEngine) else 1
    found = () if isinstance(spec, FakeEngine) else choose(addresses, _inherited(), _present())
    if not found:  # cores are shared among applications: no two engines of one executor, but others are left alone
        names = rotated([f"cpu-{reaper.executor()}-{n}" for n in range(spec.devices)], partition, 1)
        return Place(names, host=bool(spec.host))
    several = len(_inherited() or _present()) > group
    gpus = rotated(found, partition, group)
    return Place(tuple(f"gpu-{gpu}" for gpu in gpus), group, gpus, several if spec.host is None else spec.host)


@contextlib.contextmanager
def device(spec: EngineSpec) -> Iterator[tuple[str, ...]]:
    """Hold a device for as long as the task runs, and show the engine that one alone; must precede torch in a process.

    Raises:
        RuntimeError: another application holds the device.
        ValueError: Spark and the environment contradict each other, or there are too few devices.
    """
    mine = place(spec)
    if not mine.names:
        yield ()
        return
    with reaper.holding(mine.names, mine.group) as held:
        if mine.gpus:
            _show([name.removeprefix("gpu-") for name in held])
        yield held


def profile(spark: "SparkSession", gpus: int, cpus: int = 1) -> "ResourceProfile | None":
    """Ask the cluster for `gpus` and `cpus` per task; None, with a line in the log, where it does not do that.

    Local mode, and Spark Connect, refuse; there the session's own `spark.task.resource.gpu.amount` decides.
    """
    from py4j.protocol import Py4JError  # type: ignore[import-untyped]
    from pyspark.resource import ResourceProfileBuilder, TaskResourceRequests

    requests = TaskResourceRequests().cpus(cpus)
    if gpus:
        requests = requests.resource("gpu", gpus)
    try:
        wanted = ResourceProfileBuilder().require(requests).build
        manager = spark.sparkContext._jsc.sc().resourceProfileManager()
        manager.isSupported(wanted._java_resource_profile)
    except (Py4JError, AttributeError, RuntimeError) as error:
        reason = str(error).partition("\n\tat ")[0].strip().splitlines()[-1:] or [type(error).__name__]
        log.warning("no resource profile: %s; tasks get what the session's settings give them", reason[0])
        return None
    return wanted


def _task() -> tuple[int, list[str]]:
    """The partition this process works on, and the GPUs that Spark gave the task."""
    from pyspark import TaskContext

    context = TaskContext.get()
    if context is None:
        return 0, []
    reaper.die_with_parent()
    gpu = context.resources().get("gpu")
    return context.partitionId(), list(gpu.addresses) if gpu else []


_before: list[tuple[str, ...] | None] = []  # what the environment showed before this module changed it


def _inherited() -> tuple[str, ...] | None:
    if not _before:
        _before.append(visible(os.environ))
    return _before[0]


def _show(names: Sequence[str]) -> None:
    """Show CUDA these devices alone; a process that has begun with others cannot change.

    Raises:
        RuntimeError: the process has begun with others.
    """
    import sys

    wanted, torch = ",".join(names), sys.modules.get("torch")
    if os.environ.get(_VISIBLE) != wanted and torch is not None and torch.cuda.is_initialized():
        raise RuntimeError(
            f"this worker has begun on GPU {os.environ.get(_VISIBLE)} and was now given {wanted}: run one task a GPU "
            "and executor (spark.executor.resource.gpu.amount=1); the task is tried again in another worker"
        )
    os.environ[_VISIBLE] = wanted


def _present() -> tuple[str, ...]:
    """Numbers of the NVIDIA devices of this machine, without loading CUDA."""
    return tuple(sorted((p.name.removeprefix("nvidia") for p in Path("/dev").glob("nvidia[0-9]*")), key=int))
