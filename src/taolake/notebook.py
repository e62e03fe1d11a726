"""What every notebook in `notebooks/` begins and ends with: widgets become a round, an outcome the task's values.

The same files run on Databricks, where `spark`, `dbutils` and `display` are there, and locally, where a caller passes
them in. Not here: what a stage does (`taolake.stages`), nor plots (`taolake.report.tour`).
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taolake.config import Project, load
from taolake.lake import Lake
from taolake.stages import base
from taolake.stages.round import Outcome, Round

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_MAX_ROUND = 2**31 - 1  # what the column `round` holds
# Widget: its default and its label. They are the parameters of the jobs in resources/.
WIDGETS = {
    "config": ("conf/demo.yml", "Project file"),
    "round": ("1", "Round"),
    "catalog": ("", "Catalog (empty: as in the file)"),
    "schema": ("", "Schema (empty: as in the file)"),
    "work": ("", "Work folder (empty: as in the file)"),
    "prompts": ("", "Table or file of prompts (empty: as in the file)"),
    "model": ("", "Base model (empty: as in the file)"),
    "devices": ("", "Engines at once (empty: as in the file)"),
    "processes": ("", "Processes that train, one a GPU (empty: as in the file)"),
    "name": ("", "Registered model (empty: as in the file)"),
    "experiment": ("", "MLflow experiment (empty: as in the file)"),
    "endpoint": ("", "Serving endpoint (empty: as in the file)"),
}
# Fields of the project file that a widget replaces when it is not empty.
_FIELDS: dict[str, tuple[str | int, ...]] = {
    "work": ("work",),
    "prompts": ("ingest", "sources", 0, "path"),
    "model": ("model", "path"),
    "devices": ("engine", "devices"),
    "processes": ("train", "processes"),
    "name": ("register", "name"),
    "experiment": ("register", "experiment"),
    "endpoint": ("serve", "endpoint"),
}
_COUNTS = ("devices", "processes")


def begin(spark: "SparkSession", dbutils: Any) -> Round:
    """Make the widgets, read them, and open the round they name."""
    said = {name: widget(dbutils, name, default, label) for name, (default, label) in WIDGETS.items()}
    config, number, catalog, schema = (said.pop(name) for name in ("config", "round", "catalog", "schema"))
    return open_round(spark, config, number, catalog, schema, said)


def widget(dbutils: Any, name: str, default: str, label: str) -> str:
    """Make a widget and read it."""
    dbutils.widgets.text(name, default, label)
    return str(dbutils.widgets.get(name))


def open_round(
    spark: "SparkSession",
    config: str,
    number: str | int = 1,
    catalog: str = "",
    schema: str = "",
    changes: dict[str, str] | None = None,
) -> Round:
    """Open a round of a project on the notebook's own session.

    Args:
        spark: the session.
        config: project file; looked for where the notebook runs and in the folder above, where Databricks puts `conf/`.
        number: round number; widgets hand it over as text. A job run's id is folded into what the column holds.
        catalog: with `schema`, where the tables are, instead of the project file's `lake`.
        schema: see `catalog`.
        changes: other widgets, by name; an empty one changes nothing.

    Raises:
        FileNotFoundError: there is no such project file.
        ValueError: one of `catalog` and `schema` alone, or a project file that is not right.
    """
    if bool(catalog) != bool(schema):
        raise ValueError(
            f"got catalog {catalog!r} and schema {schema!r}, wanted both, or neither to use the file's lake"
        )
    found = next((path for path in (Path(config), Path("..", config)) if path.exists()), None)
    if found is None:
        raise FileNotFoundError(f"no project file {config} in {Path.cwd()} or above; set the widget `config` to one")
    count = (int(number) - 1) % _MAX_ROUND + 1
    project = base.begin(_changed(load(found), changes or {}), count)
    where = f"{catalog}.{schema}" if catalog else project.lake
    return Round(Lake(spark, where), project, count)


def finish(dbutils: Any, stage: str, outcome: Outcome) -> None:
    """Give what a stage did to the job's other tasks, and leave the notebook with it.

    Yes and no are task values of their own, `true` or `false`: a condition compares text.
    """
    said = json.dumps(outcome.detail, sort_keys=True)
    dbutils.jobs.taskValues.set(key=stage, value=said)
    for key, value in outcome.detail.items():
        if isinstance(value, bool):
            dbutils.jobs.taskValues.set(key=key, value=str(value).lower())
    dbutils.notebook.exit(said)


def _changed(project: Project, changes: dict[str, str]) -> Project:
    """The project with the fields that widgets replace."""
    raw: Any = project.model_dump(mode="json", by_alias=True)
    for name, value in changes.items():
        if not value:
            continue
        *path, last = _FIELDS[name]
        section = raw
        for part in path:
            section = section[part]
        section[last] = int(value) if name in _COUNTS else value
    return Project.model_validate(raw)
