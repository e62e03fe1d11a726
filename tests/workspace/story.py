"""What is done to an endpoint, act by act, by the real SDK: in the test's own process or in one that is killed.

Nothing heavy is imported, so that a process that was forked for one act begins with it at once.
"""

import json
from typing import Any

from databricks.sdk import WorkspaceClient
from databricks.sdk.clock import Clock
from databricks.sdk.config import Config

from taolake.config import Serve
from taolake.serving import release
from taolake.serving.desk import Desk
from taolake.serving.release import Waiting
from taolake.serving.steps import PASSED, ROLLED_BACK, Want
from tests.workspace.fake import Workspace, serving

MODEL = "main.tuning.tuned"
SERVE = Serve(endpoint="chat", canary=20, probes=("Who?", "What?"), requests_per_minute=60)
SIGNALS = SERVE.model_copy(update={"promote": "signals"})
# Each act, and those that come before it in the workspace it finds.
ACTS = {
    "deploy": (),
    "replace": ("deploy",),
    "rollback": ("deploy", "replace"),
    "canary": ("deploy",),
    "promote": ("deploy", "canary"),
    "withdraw": ("deploy", "canary"),
}


class NoTime(Clock):
    """The SDK's waits between two tries are counted, not sat out."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def connect(url: str, patience_s: float = 5) -> WorkspaceClient:
    return WorkspaceClient(config=Config(host=url, token="x", http_timeout_seconds=patience_s, clock=NoTime()))


def want(version: int, serve: Serve = SERVE) -> Want:
    return Want(MODEL, version, serve, "main.tuning")


def patience() -> Waiting:
    return Waiting(sleep=lambda seconds: None)


def story(client: WorkspaceClient, act: str) -> None:
    """One of the things that are done to an endpoint; the last three are a canary that its signals decide."""
    match act:
        case "deploy":
            release.deploy(client, want(1), patience())
        case "replace":
            release.deploy(client, want(2), patience())
        case "rollback":
            release.rollback(client, want(2), patience())
        case "canary":
            release.deploy(client, want(2, SIGNALS), patience())
        case "promote":
            release.settle(Desk(client, want(2, SIGNALS)), PASSED, "as good", patience())
        case "withdraw":
            release.settle(Desk(client, want(2, SIGNALS)), ROLLED_BACK, "worse", patience())


def play(url: str, act: str) -> None:
    """An act in a process of its own."""
    story(connect(url), act)


def prepared(act: str) -> Workspace:
    """The workspace as an act finds it; after the first one register made version 2 and called it champion."""
    here = Workspace(looks=2)
    here.add_version(MODEL)
    with serving(here) as url:
        for before in ACTS[act]:
            story(connect(url), before)
            if before == "deploy":
                here.add_version(MODEL)
                here.aliases[MODEL]["champion"] = 2
    here.calls.clear()
    return here


def undisturbed(act: str) -> Workspace:
    """The workspace after an act that nothing stopped."""
    here = prepared(act)
    with serving(here) as url:
        story(connect(url), act)
    assert here.unknown == []
    return here


def state(here: Workspace) -> Any:
    """What matters at the end; ids and counters do not."""
    shown = {
        name: {key: endpoint[key] for key in ("config", "ai_gateway", "tags", "state", "pending_config")}
        for name, endpoint in here.endpoints.items()
    }
    return json.loads(json.dumps({"endpoints": shown, "aliases": here.aliases}))
