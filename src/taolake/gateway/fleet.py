"""The versions that run follow the registry while the gateway answers: new ones are loaded, old ones leave.

At every look first the shares of what runs are set, so that a rollback waits for nothing. Then servers that are missing
or died are started, one after the other, while the others answer. A plan is taken whole once all of it is up, or not
at all. A server that no version needs any more ends when its last answer has.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from taolake.gateway.servers import Plan, Say, Servers
from taolake.gateway.split import Upstream, routed

if TYPE_CHECKING:
    from taolake.gateway.app import App

Told = tuple[Plan, Mapping[str, float]]  # what shall be served, and shares by the log's names; empty: the plan's own


class Fleet:
    """The versions and their servers.

    Args:
        plan: what is served at first.
        servers: start and end what answers.
        say: is told what changes.

    Raises:
        RuntimeError: a server does not start.
    """

    def __init__(self, plan: Plan, servers: Servers, say: Say) -> None:
        self._servers, self._say, self._said = servers, say, ""
        self._plan = self._tried = plan
        self.versions = self._started(plan)

    def follow(self, told: Callable[[], Told], app: "App") -> Callable[[], None]:
        """A look at what the registry tells, to be repeated; it fails by saying so, and changes nothing then."""

        def look() -> None:
            try:
                self.take(*told(), app)
                trouble = ""
            except Exception as error:  # boundary: a registry that cannot be reached, a version that does not load
                trouble = f"versions stay as they are: {type(error).__name__}: {error}"
            if trouble and trouble != self._said:
                self._say(trouble)
            self._said = trouble

        return look

    def take(self, plan: Plan, shares: Mapping[str, float], app: "App") -> None:
        """Serve a plan with these shares from now on.

        Raises:
            RuntimeError: a server does not start; it is tried again once the plan is another one.
        """
        self._set(routed(self.versions, shares), app)
        if plan not in (self._plan, self._tried):
            self._tried = plan
            self._started(plan)
            self._plan = plan
        if plan == self._plan:
            self._tried = plan
            self._set(routed(self._wanted(shares), shares), app)
        for model, url in self._servers.unused({version.url for version in self.versions}):
            if not app.busy(url):
                self._servers.end(model)

    def _started(self, plan: Plan) -> tuple[Upstream, ...]:
        """The plan's versions, each with the URL of a server that is up."""
        urls = {model.name: self._servers.url(model) for model in plan.models}
        return tuple(replace(version, url=urls.get(version.url, version.url).rstrip("/")) for version in plan.versions)

    def _wanted(self, shares: Mapping[str, float]) -> tuple[Upstream, ...]:
        """The plan's versions, and those that have a share without a name: a promotion moves the alias last."""
        now = {version.entity: version.share for version in self.versions}
        wanted = [replace(v, share=now.get(v.entity, v.share)) for v in self._started(self._plan)]
        names, entities = {version.name for version in wanted}, {version.entity for version in wanted}
        still = [v for v in self.versions if shares.get(v.entity, 0.0) > 0 and v.entity not in entities]
        return (*wanted, *(version for version in still if version.name not in names))

    def _set(self, versions: tuple[Upstream, ...], app: "App") -> None:
        if versions != self.versions:
            self._say("versions: " + ", ".join(f"{v.name} is {v.entity}, share {v.share:g}" for v in versions))
        self.versions = versions
        app.take(versions)
