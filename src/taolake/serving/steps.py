"""The next step towards serving a version, from what is there: no state of its own, no workspace.

Three aliases and a tag are the memory. `live` is the version that gets the requests, `previous` the one before it; both
are moved after the endpoint. The endpoint's tag `taolake_verdict` says of one version whether it passed its canary.
Where signals decide, a version that answers its probes stays a canary until `judge` has said what became of it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from taolake.config import Serve

PASSED, FAILED, ROLLED_BACK = "passed", "failed", "rolled_back"
PROBED = "probed"  # it answers; whether it is good is for its signals to say


@dataclass(frozen=True)
class Want:
    """A version of a model behind an endpoint.

    Args:
        model: three-level name.
        version: of the model.
        serve: how; its endpoint is named.
        lake: `catalog.schema` where requests are logged.
    """

    model: str
    version: int
    serve: Serve
    lake: str


@dataclass(frozen=True)
class Seen:
    """What the workspace says: of the version wanted, its endpoint, and the model's aliases."""

    registered: str = "READY"
    exists: bool = False
    updating: bool = False
    ready: bool = False
    failure: str | None = None
    settings_right: bool = False
    entity_right: bool = False
    routes: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    aliases: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    verdict: tuple[int, str] | None = None

    def judged(self, version: int) -> str | None:
        """What the tag says of a version."""
        return self.verdict[1] if self.verdict and self.verdict[0] == version else None

    def beside(self, version: int) -> int | None:
        """The other version that gets most requests."""
        others = {v: share for v, share in self.routes.items() if v != version}
        return max(others, key=lambda v: (others[v], v)) if others else None


class Refused(Exception):
    """A version did not pass its probes; it is on record, and the next steps lead away from it."""


class Do(StrEnum):
    """What a step does."""

    WAIT = "wait"
    CREATE = "create"
    SETTINGS = "settings"
    ROUTE = "route"
    PROBE = "probe"
    JUDGE = "judge"
    ALIAS = "alias"
    UNALIAS = "unalias"
    DONE = "done"
    STUCK = "stuck"


@dataclass(frozen=True)
class Step:
    """One change of the workspace, or none; `says` is the line that people read."""

    do: Do
    says: str
    routes: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    alias: str = ""
    version: int = 0
    word: str = ""


def next_step(want: Want, seen: Seen, tried: bool = False) -> Step:
    """The next step.

    Args:
        want: what shall be.
        seen: what is.
        tried: whether this process has asked for the version already; a failure is then its own.
    """
    version, endpoint = want.version, want.serve.endpoint
    if seen.registered == "PENDING_REGISTRATION":
        return Step(Do.WAIT, f"version {version} is being registered")
    if seen.registered != "READY":
        return Step(Do.STUCK, f"version {version} of {want.model} is {seen.registered}: register it again")
    if seen.updating:
        return Step(Do.WAIT, f"endpoint {endpoint} is being changed")
    if seen.judged(version) in (FAILED, ROLLED_BACK):
        return _back(want, seen)
    if seen.failure and tried:
        return judge(version, FAILED, f"it could not be deployed: {seen.failure}")
    if not seen.exists:
        return Step(Do.CREATE, f"make endpoint {endpoint} with version {version}", {version: 100})
    if not seen.settings_right:
        return Step(Do.SETTINGS, f"set logging and limits of {endpoint}")
    return _forward(want, seen)


def _forward(want: Want, seen: Seen) -> Step:
    version, old = want.version, seen.beside(want.version) if seen.ready else None
    if version not in seen.routes or (seen.failure and not seen.ready):
        share = want.serve.canary
        routes = {old: 100 - share, version: share} if old else {version: 100}
        return Step(Do.ROUTE, f"version {version} gets {routes[version]} % of the requests", routes)
    if seen.judged(version) is None:
        word = PROBED if want.serve.promote == "signals" else PASSED
        says = f"ask version {version} {len(want.serve.probes)} questions"
        return Step(Do.PROBE, says, version=version, word=word)
    if seen.judged(version) == PROBED and old is not None:
        share = seen.routes[version]
        return Step(Do.DONE, f"version {version} answers {share} % of the requests until its signals decide")
    if old is not None or not seen.entity_right:
        return Step(Do.ROUTE, f"promote: version {version} gets all requests", {version: 100})
    live = seen.aliases.get("live")
    if live is not None and live not in (version, seen.aliases.get("previous")):
        return _alias("previous", live)
    if live != version:
        return _alias("live", version)
    return Step(Do.DONE, f"version {version} is live")


def _back(want: Want, seen: Seen) -> Step:
    """Away from a version that failed or was rolled back."""
    bad, good = want.version, last_good(seen, want.version)
    if good is None:
        return Step(Do.STUCK, f"version {bad} {seen.judged(bad)}, and there is none to go back to")
    if seen.routes != {good: 100}:
        return Step(Do.ROUTE, f"back: version {good} gets all requests", {good: 100})
    for alias in ("champion", "live"):
        if seen.aliases.get(alias) == bad:
            return _alias(alias, good)
    if seen.aliases.get("previous") == good:
        return Step(Do.UNALIAS, "alias previous is gone: it is live again", alias="previous")
    return Step(Do.DONE, f"version {good} is live, version {bad} {seen.judged(bad)}")


def last_good(seen: Seen, bad: int) -> int | None:
    """The version to go back to."""
    for version in (seen.aliases.get("live"), seen.aliases.get("previous"), seen.beside(bad)):
        if version is not None and version != bad:
            return version
    return None


def to_roll_back(seen: Seen) -> int:
    """The version that a rollback takes away: a running canary, or else what is live.

    Raises:
        RuntimeError: there is nothing to go back to.
    """
    live, word = seen.aliases.get("live"), seen.verdict[1] if seen.verdict else None
    if seen.verdict and word == ROLLED_BACK:
        return seen.verdict[0]  # begun before, perhaps to its end
    bad = next((version for version in seen.routes if version != live), live)
    if bad is None or last_good(seen, bad) is None:
        raise RuntimeError(f"nothing to roll back to: live is version {live}, and no other one is known")
    return bad


def judge(version: int, word: str, why: str) -> Step:
    """Write down what became of a version, before anything is done about it."""
    return Step(Do.JUDGE, f"version {version} {word}: {why}", version=version, word=word)


def log_prefix(endpoint: str) -> str:
    """How the table of an endpoint's requests begins; Databricks adds `_payload`."""
    return endpoint.replace("-", "_")


def served_name(model: str, version: int) -> str:
    """What an endpoint, and so the log, calls a version."""
    return f"{model.rpartition('.')[2]}-{version}"


def logged_names(model: str, version: int) -> set[str]:
    """What logs call a version: an endpoint's entity, a registry's URI, or both numbers in other spellings."""
    short = model.rpartition(".")[2]
    pairs = {f"{name}{mark}{version}" for name in (model, short) for mark in "-/:@"}
    return pairs | {f"models:/{model}/{version}", str(version)}


def _alias(name: str, version: int) -> Step:
    return Step(Do.ALIAS, f"alias {name} is version {version}", alias=name, version=version)


def plan(want: Want, seen: Seen) -> Iterator[Step]:
    """All steps from here, if every one of them goes well."""
    for _ in range(20):
        step = next_step(want, seen)
        yield step
        if step.do in (Do.DONE, Do.STUCK):
            return
        seen = after(seen, step)


def after(seen: Seen, step: Step) -> Seen:
    """What will be there once a step went well."""
    match step.do:
        case Do.WAIT:
            return replace(seen, registered="READY", updating=False)
        case Do.CREATE:
            return replace(seen, exists=True, ready=True, entity_right=True, settings_right=True, routes=step.routes)
        case Do.SETTINGS:
            return replace(seen, settings_right=True)
        case Do.ROUTE:
            return replace(seen, routes=step.routes, ready=True, failure=None, entity_right=True)
        case Do.PROBE | Do.JUDGE:
            return replace(seen, verdict=(step.version, step.word))
        case Do.ALIAS:
            return replace(seen, aliases={**seen.aliases, step.alias: step.version})
        case Do.UNALIAS:
            return replace(seen, aliases={k: v for k, v in seen.aliases.items() if k != step.alias})
        case _:
            return seen
