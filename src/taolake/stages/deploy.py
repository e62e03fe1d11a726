"""Deploy: the registered version goes behind the serving endpoint of the project file, or before the local gateway.

Not one of the stages of a round: it changes a workspace and no table, and the endpoint itself says what is done
(`taolake.serving`). Only a version that the gate promoted gets here.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from taolake import databricks, lake
from taolake.config import Project
from taolake.serving import release
from taolake.serving.desk import Desk
from taolake.serving.local import Shelf
from taolake.serving.release import Place
from taolake.serving.steps import PASSED, Want
from taolake.stages import registry
from taolake.stages.round import Outcome, Round

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

_QUESTIONS = 8  # holdout prompts asked beside the probes of the project file


def deploy(round_: Round, client: "Callable[[], WorkspaceClient]", waiting: release.Waiting | None = None) -> Outcome:
    """Serve the round's version.

    Raises:
        RuntimeError: the gate refused it, or it does not answer and there is no version to go back to.
    """
    project, entry = round_.project, round_.done("register").detail
    if not project.serve.endpoint:
        return Outcome(0, 0, {"endpoint": "", "served": False})
    if not round_.done("gate").detail["promoted"]:
        raise RuntimeError(f"the gate refused round {round_.number}; nothing of it is served")
    probes = (*project.serve.probes, *_holdout(round_))
    serve = project.serve.model_copy(update={"probes": probes})
    want = Want(entry["name"], int(entry["version"]), serve, round_.lake.location)
    seen = release.deploy(client(), want, waiting or release.Waiting(say=print))
    passed = seen.judged(want.version) == PASSED
    detail = {"endpoint": serve.endpoint, "version": want.version, "served": passed, "live": seen.aliases.get("live")}
    return Outcome(0, 0, detail)


def place(
    project: Project, location: str, client: "Callable[[], WorkspaceClient]", version: int | None = None
) -> Place:
    """Where this project's models are served: an endpoint, or this machine where the tables are in no catalog.

    Args:
        project: the project file.
        location: of the lake.
        client: makes the client of the workspace, where there is one.
        version: to serve; None: the champion.

    Raises:
        ValueError: as `wanted`; or there is no champion.
    """
    if location.count(".") == 1 and "/" not in location:
        want, workspace = wanted(project.model_copy(update={"lake": location}), 0), client()
        number = version or databricks.alias(workspace, want.model, "champion")
        return Desk(workspace, dataclasses.replace(want, version=number))
    import mlflow

    registry.connect(project)
    store, name = mlflow.MlflowClient(), project.register_.name
    try:
        number = version or int(store.get_model_version_by_alias(name, "champion").version)
    except mlflow.MlflowException:
        raise ValueError(
            f"{name} has no alias 'champion'; run a round that the gate promotes, or name --version"
        ) from None
    return Shelf(store, Want(name, number, project.serve, location))


def wanted(project: Project, version: int) -> Want:
    """A version by the project file alone, as the command line has it.

    Raises:
        ValueError: the project serves nothing, or its tables are in no catalog.
    """
    if not project.serve.endpoint:
        raise ValueError("serve.endpoint is empty: name the endpoint to make or change")
    if project.register_.name.count(".") != 2 or project.lake.count(".") != 1 or "/" in project.lake:
        raise ValueError(
            f"got register.name {project.register_.name!r} and lake {project.lake!r}, wanted catalog.schema.model and "
            "catalog.schema: only what is in Unity Catalog can be served"
        )
    return Want(project.register_.name, version, project.serve, project.lake)


def _holdout(round_: Round) -> list[str]:
    """The last turns of a few holdout prompts, the same ones every time."""
    rows = round_.lake.read(lake.PROMPTS).where("split = 'holdout'").orderBy("prompt_id").limit(_QUESTIONS)
    return [row["messages"][-1]["content"] for row in rows.select("messages").collect()]
