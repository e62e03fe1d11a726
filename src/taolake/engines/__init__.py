"""Engines answer requests. A task gets one by `hold`; it is built once per worker, or once per device in a host, and
kept, because loading costs more than work.

The specs live in `taolake.config`; executors receive a spec and build the engine there (a built engine never travels).
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from taolake.config import EndpointEngine, EngineSpec, FakeEngine, Model, VllmEngine
from taolake.engines import placement, reaper
from taolake.types import Engine, Policy

_kept: tuple[str, Any] | None = None  # key and engine of this process


@contextlib.contextmanager
def hold(spec: EngineSpec, model: Model, policy: Policy) -> Iterator[Engine]:
    """The engine of a task's device, for the length of the task; in this process, or in the device's host.

    Raises:
        RuntimeError: another application holds the device, or the host did not start.
        ValueError: Spark and the environment contradict each other, or there are too few devices.
    """
    place = placement.place(spec)
    if place.host:
        from taolake.engines import host

        shown = ",".join(place.gpus[: place.group]) if place.gpus else None
        with host.connect(place.names[: place.group], shown, spec, model, policy) as engine:
            yield engine
    else:
        with placement.device(spec):
            yield build(spec, model, policy)


def build(spec: EngineSpec, model: Model, policy: Policy) -> Engine:
    """Build the engine a spec describes, or return the one this process already holds for the same work."""
    match spec:
        case VllmEngine():
            from taolake.engines import vllm

            rank = vllm.rank_for(policy.adapter)
            key = f"generate {spec!r} {model!r} {policy.model} {rank}"
            engine: vllm.Vllm = cached(key, lambda: vllm.Vllm(spec, model, policy.model, rank))
            engine.adapter = policy.adapter
            return engine
        case EndpointEngine():
            from taolake.engines.endpoint import Endpoint

            return Endpoint(spec)
        case FakeEngine():
            from taolake.engines.fake import Fake

            fake: Fake = cached(f"fake {spec!r}", lambda: Fake(spec))
            return fake


def cached(key: str, make: Callable[[], Any]) -> Any:
    """Keep one heavy engine per process: a second one on the same device would fight the first for its memory."""
    global _kept
    if _kept is None or _kept[0] != key:
        if _kept is not None:
            _kept[1].close()
        _kept = None
        _kept = (key, make())
        reaper.note_children()
    return _kept[1]
