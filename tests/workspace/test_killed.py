"""A release killed by SIGKILL when the workspace has received a change: started again, it ends alike.

The workspace lives here and survives. The processes are forked from one that has the SDK in memory already.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from typing import Any

import pytest

from tests.workspace.fake import Fault, Workspace, serving
from tests.workspace.story import ACTS, play, prepared, state
from tests.workspace.story import undisturbed as whole

CHANGES = "POST|PUT|PATCH|DELETE"  # questions to the new version too: between them the verdict is not yet written
PATIENCE_S = 60


@pytest.fixture(scope="module")
def warm() -> Iterator[ForkServerContext]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.workspace.story"])
    yield context


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, tuple[Any, int]]:
    """Of every act, the workspace at its end and how many requests changed or asked something."""
    asked = {act: whole(act) for act in ACTS}
    return {act: (state(here), sum(call.method != "GET" for call in here.calls)) for act, here in asked.items()}


def run_killed(warm: ForkServerContext, here: Workspace, url: str, act: str, kill: int, applied: bool) -> None:
    """Play an act and kill its process at a change, before or after it is carried out; nobody gets the answer."""
    process, known = warm.Process(target=play, args=(url, act)), threading.Event()

    def end() -> None:
        assert known.wait(PATIENCE_S)
        os.kill(process.pid or 0, signal.SIGKILL)

    here.faults = [Fault(CHANGES, "", applied=applied, skip=kill, then=end)]
    process.start()
    known.set()
    process.join(PATIENCE_S)
    assert process.exitcode == -signal.SIGKILL, f"change {kill} of {act} was not reached"
    assert here.faults[0].times == 0


def killed_and_started_again(
    warm: ForkServerContext, undisturbed: dict[str, tuple[Any, int]], act: str, kill: int, applied: bool
) -> None:
    here = prepared(act)
    with serving(here) as url:
        run_killed(warm, here, url, act, kill, applied)
        process = warm.Process(target=play, args=(url, act))
        process.start()
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    assert state(here) == undisturbed[act][0], f"{act} killed {'after' if applied else 'before'} change {kill}"
    assert here.unknown == []


@pytest.mark.parametrize(("act", "kill"), [("replace", 1), ("promote", 2)])
def test_killed_and_started_again(
    warm: ForkServerContext, undisturbed: dict[str, tuple[Any, int]], act: str, kill: int
) -> None:
    killed_and_started_again(warm, undisturbed, act, kill, applied=True)


@pytest.mark.slow  # a quarter of a second for each of some sixty deaths
@pytest.mark.parametrize("act", ACTS)
def test_killed_at_every_change_and_started_again(
    warm: ForkServerContext, undisturbed: dict[str, tuple[Any, int]], act: str
) -> None:
    changes = undisturbed[act][1]
    assert changes >= 3
    for kill in range(changes):
        for applied in (False, True):
            killed_and_started_again(warm, undisturbed, act, kill, applied)
