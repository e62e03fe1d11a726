"""Look, do one step, look again: until the wanted version is live, or away."""

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from taolake.serving.desk import Desk
from taolake.serving.steps import ROLLED_BACK, Do, Refused, Seen, Step, Want, judge, next_step, to_roll_back
from taolake.serving.steps import plan as steps_from

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

_TROUBLES = 8  # in a row before it is given up: a server that answers 500, a conflict with another change
_POLL_S = 15.0


@dataclasses.dataclass(frozen=True)
class Waiting:
    """How a release passes the time: `say` is told every step, `sleep` waits."""

    say: Callable[[str], None] = lambda line: None
    sleep: Callable[[float], None] = time.sleep


class Place(Protocol):
    """Where a version is served, seen from there: a workspace's endpoint (`desk`), or this machine (`local`)."""

    @property
    def want(self) -> Want:
        """The version to serve."""

    def check(self) -> None:
        """Raise ValueError where the model cannot be served as wanted."""

    def look(self) -> Seen:
        """What is there now."""

    def do(self, step: Step) -> None:
        """Do a step."""


def deploy(client: "WorkspaceClient", want: Want, waiting: Waiting = Waiting()) -> Seen:
    """Put a version behind its endpoint, or go back to the one before where it does not pass.

    Raises:
        ValueError: the model cannot be served as wanted; nothing was changed.
        RuntimeError: the version cannot be served and there is none to go back to, or the endpoint took too long.
    """
    return serve(Desk(client, want), waiting)


def serve(place: Place, waiting: Waiting = Waiting()) -> Seen:
    """As `deploy`, anywhere."""
    return _run(place, waiting)


def settle(place: Place, word: str, why: str, waiting: Waiting = Waiting()) -> Seen:
    """Write down what became of a canary, `PASSED` or `ROLLED_BACK`, and do what follows from it."""
    return _run(place, waiting, judge(place.want.version, word, why))


def rollback(client: "WorkspaceClient", want: Want, waiting: Waiting = Waiting()) -> Seen:
    """Take a running canary away, or else the live version; the version in `want` may be any of the model.

    Raises:
        RuntimeError: as `deploy`, or there is nothing to go back to.
    """
    return withdraw(lambda wanted: Desk(client, wanted), want, waiting)


def withdraw(place: Callable[[Want], Place], want: Want, waiting: Waiting = Waiting()) -> Seen:
    """As `rollback`, anywhere."""
    bad = to_roll_back(place(want).look())
    return settle(place(dataclasses.replace(want, version=bad)), ROLLED_BACK, "as asked", waiting)


def plan(client: "WorkspaceClient", want: Want) -> list[Step]:
    """What `deploy` would do now; changes nothing."""
    return planned(Desk(client, want))


def planned(place: Place) -> list[Step]:
    """As `plan`, anywhere."""
    place.check()
    return list(steps_from(place.want, place.look()))


def _run(desk: Place, waiting: Waiting, verdict: Step | None = None) -> Seen:
    """Step by step; a verdict that is given comes first, unless it is on record."""
    from databricks.sdk.errors import InternalError, ResourceConflict

    waited, troubles, tried = 0.0, 0, False
    while True:
        try:
            desk.check()
            seen = desk.look()
            step = next_step(desk.want, seen, tried)
            if verdict and seen.judged(verdict.version) != verdict.word:
                step = verdict
            if step.do is Do.DONE:
                waiting.say(step.says)
                return seen
            if step.do is Do.STUCK:
                raise RuntimeError(step.says)
            if step.do is not Do.WAIT:
                waiting.say(step.says)
                desk.do(step)
                tried = tried or desk.want.version in step.routes
                troubles = 0
                continue
            if waited > desk.want.serve.timeout_minutes * 60:
                raise RuntimeError(f"{step.says}, for {waited / 60:.0f} minutes now; run it again to go on waiting")
            waited += _POLL_S
        except Refused as refused:
            waiting.say(str(refused))
            continue
        except (InternalError, ResourceConflict, TimeoutError) as error:
            troubles += 1
            waiting.say(f"the workspace answers {error}; looking again")
            if troubles == _TROUBLES:
                raise
        waiting.sleep(_POLL_S)
