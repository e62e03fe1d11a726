"""Engines answer requests. `cached` builds one per Python worker and keeps it, because loading costs more than work.

The specs live in `taolake.config`; executors receive a spec and build the engine there (a built engine never travels).
"""

from collections.abc import Callable
from typing import Any

from taolake.config import EndpointEngine, EngineSpec, FakeEngine, Model, VllmEngine
from taolake.engines import reaper
from taolake.types import Engine, Policy

_kept: tuple[str, Any] | None = None  # key and engine of this process


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
