"""Which version answers whom: a caller stays with a version for as long as the shares stay.

Growing one version's share moves callers to it and none between the others, when it is listed last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from taolake.ids import unit_interval


@dataclass(frozen=True)
class Upstream:
    """A version behind the gateway.

    Attributes:
        name: what callers name to ask it alone.
        url: base URL of its server, up to /v1.
        model: what its server calls it.
        entity: what the log calls it.
        share: part of the callers, against the other versions' parts.
    """

    name: str
    url: str
    model: str
    entity: str
    share: float


@dataclass(frozen=True)
class Choice:
    """A version, and the chance with which such a request goes to it; None where nothing was drawn."""

    upstream: Upstream
    share: float | None


def routed(upstreams: Sequence[Upstream], routes: Mapping[str, float]) -> tuple[Upstream, ...]:
    """The versions with the shares that the log's names for them have; as they are where none of them is running."""
    if not any(routes.get(upstream.entity, 0.0) > 0 for upstream in upstreams):
        return tuple(upstreams)
    return tuple(replace(upstream, share=routes.get(upstream.entity, 0.0)) for upstream in upstreams)


def choose(upstreams: Sequence[Upstream], caller: str, salt: str = "") -> Choice:
    """Deal a caller to a version by a hash of who it is."""
    total = sum(upstream.share for upstream in upstreams)
    live = [upstream for upstream in upstreams if upstream.share > 0]
    place, below = unit_interval("split", salt, caller) * total, 0.0
    for upstream in live:
        below += upstream.share
        if place < below:
            break
    return Choice(upstream, upstream.share / total if len(live) > 1 else None)
