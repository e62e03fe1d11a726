"""What every notebook in `notebooks/` begins and ends with: widgets become a round, an outcome the task's value.

The same files run on Databricks, where `spark`, `dbutils` and `display` are there, and locally, where a caller passes
them in. Not here: what a stage does (`taolake.stages`), nor plots (`taolake.report.tour`).
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taolake.config import load
from taolake.lake import Lake
from taolake.stages.round import Outcome, Round

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def open_round(spark: "SparkSession", config: str, number: str | int = 1, catalog: str = "", schema: str = "") -> Round:
    """Open a round of a project on the notebook's own session.

    Args:
        spark: the session.
        config: project file; looked for where the notebook runs and in the folder above, where Databricks puts `conf/`.
        number: round number; widgets hand it over as text.
        catalog: with `schema`, where the tables are, instead of the project file's `lake`.
        schema: see `catalog`.

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
    project = load(found)
    return Round(Lake(spark, f"{catalog}.{schema}" if catalog else project.lake), project, int(number))


def finish(dbutils: Any, stage: str, outcome: Outcome) -> None:
    """Give what a stage did to the job's other tasks, and leave the notebook with it."""
    said = json.dumps(outcome.detail, sort_keys=True)
    dbutils.jobs.taskValues.set(key=stage, value=said)
    dbutils.notebook.exit(said)
