"""What is different on a Databricks cluster, and the only module that asks whether this is one.

A session is not made here (the notebook has one) and neither is a table. `databricks-sdk` is imported where a client is
made: without a workspace nothing asks for one.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from taolake import lake, unity
from taolake.config import Project
from taolake.lake import Lake
from taolake.training.job import TrainJob, TrainResult

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

_LOCAL_DISK = Path("/local_disk0/taolake")


def here() -> bool:
    """Whether this process runs on Databricks compute."""
    return "DATABRICKS_RUNTIME_VERSION" in os.environ


def govern(lake_: Lake, project: Project) -> None:
    """Make the tables with all that Unity Catalog knows of a table; elsewhere `Lake` makes them when they are used."""
    if here() and lake_.in_catalog:
        lake_.execute(unity.statements(lake.TABLES, lake_.location, project.unity))


def scratch(folder: Path) -> Path:
    """Where to put files of many gigabytes that can be made again: the node's own disk, not a volume."""
    return _LOCAL_DISK / folder.relative_to(folder.anchor) if here() else folder


def registry(beside: str) -> tuple[str, str]:
    """MLflow's tracking and registry URIs: the workspace and Unity Catalog, or the store `beside` the tables."""
    return ("databricks", "databricks-uc") if here() else (beside, beside)


def launch(job: TrainJob, on_line: Callable[[str], None]) -> TrainResult:
    """Train in a child process; on a cluster on the node's own disk, since a volume takes no appended log.

    What is there is copied back when the child ends, well or not, and is what the next run goes on from. Executors on
    several nodes share no disk and train in the folder itself.
    """
    from taolake.training.launch import launch

    home, local = Path(job.out), scratch(Path(job.out))
    if local == home or job.settings.get("executors"):
        return launch(job, on_line)
    shutil.copytree(home, local, dirs_exist_ok=True)
    try:
        launch(dataclasses.replace(job, out=str(local)), on_line)
    finally:
        shutil.copytree(local, home, dirs_exist_ok=True)
    return TrainResult.read(home)


def client() -> "WorkspaceClient":
    """The workspace this process belongs to, or the one that the environment or a profile names.

    Raises:
        ValueError: none is named.
    """
    from databricks.sdk import WorkspaceClient

    try:
        return WorkspaceClient()
    except ValueError as error:
        raise ValueError(f"no workspace: set DATABRICKS_HOST and a way to log in, or a profile ({error})") from None


def alias(client: "WorkspaceClient", model: str, name: str) -> int:
    """The version an alias of a registered model names.

    Raises:
        ValueError: no version has that alias.
    """
    found = client.registered_models.get(model, include_aliases=True).aliases or []
    version = next((each.version_num for each in found if each.alias_name == name), None)
    if version is None:
        raise ValueError(f"{model} has no alias {name!r}; run a round that the gate promotes, or name --version")
    return version
