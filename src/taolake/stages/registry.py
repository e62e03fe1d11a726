"""Where MLflow keeps models: a SQLite file beside the tables, or Unity Catalog by the URIs in the project file.

Not here: what is registered (`register`, `reward_card`).
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taolake import databricks
from taolake.config import Project
from taolake.lake import Lake, Table

PIP_REQUIREMENTS = ("mlflow", "torch", "transformers", "accelerate")
PATIENCE_S = 3600  # until a version of many gigabytes is there


def connect(project: Project) -> None:
    """Point MLflow at the project's store."""
    import mlflow

    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # a machine without git is no reason to warn
    tracking, models = databricks.registry(f"sqlite:///{Path(project.work).resolve()}/mlflow.db")
    Path(project.work).mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(project.register_.tracking_uri or tracking)
    mlflow.set_registry_uri(project.register_.registry_uri or models)
    experiment = project.register_.experiment
    with quiet():
        if databricks.here():  # without a name: the notebook's or the job's own experiment
            if experiment:
                mlflow.set_experiment(experiment)
            return
        name = experiment or project.name
        if mlflow.get_experiment_by_name(name) is None:
            mlflow.create_experiment(name, artifact_location=f"{Path(project.work).resolve()}/mlartifacts")
        mlflow.set_experiment(name)


def traces(project: Project, source: str) -> list[Any]:
    """Traces of `mlflow:<experiment>`, of the project's store.

    Raises:
        ValueError: MLflow knows no such experiment.
    """
    import mlflow

    connect(project)
    name = source.partition(":")[2]
    experiment = mlflow.get_experiment_by_name(name)
    if experiment is None:
        raise ValueError(f"MLflow at {mlflow.get_tracking_uri()} has no experiment {name!r}; name one that has traces")
    return list(mlflow.search_traces(locations=[experiment.experiment_id], return_type="list", flush=True))


def dataset(lake: Lake, table: Table) -> Any:
    """A table at its newest version, as an input that MLflow shows and Unity Catalog draws lineage from."""
    from mlflow.data.delta_dataset_source import DeltaDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    where = {"delta_table_name": lake.name(table)} if lake.in_catalog else {"path": lake.name(table)}
    return MetaDataset(DeltaDatasetSource(**where, delta_table_version=lake.version(table)), name=table.name)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """MLflow, transformers and bitsandbytes narrate; the narration of a round is ours, errors still come through."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    names = ("mlflow", "mlflow.store.db.utils", "transformers", "bitsandbytes", "alembic")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
