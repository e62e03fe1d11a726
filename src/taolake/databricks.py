"""What is different on a Databricks cluster, and the only module that asks whether this is one.

A session is not made here (the notebook has one) and neither is a table. `databricks-sdk` is imported where a client is
made: without a workspace nothing asks for one.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from taolake import lake, unity
from taolake.config import Project
from taolake.lake import Lake

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
