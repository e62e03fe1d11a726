"""Where MLflow keeps models: a SQLite file beside the tables, or Unity Catalog by the URIs in the project file.

Not here: what is registered (`register`, `reward_card`).
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from taolake.config import Project

PIP_REQUIREMENTS = ("mlflow", "torch", "transformers", "accelerate")


def connect(project: Project) -> None:
    """Point MLflow at the project's store."""
    import mlflow

    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # a machine without git is no reason to warn
    on_databricks = "DATABRICKS_RUNTIME_VERSION" in os.environ
    beside = "databricks" if on_databricks else f"sqlite:///{Path(project.work).resolve()}/mlflow.db"
    Path(project.work).mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(project.register_.tracking_uri or beside)
    mlflow.set_registry_uri(project.register_.registry_uri or ("databricks-uc" if on_databricks else beside))
    if on_databricks:  # the notebook's or the job's own experiment
        return
    with quiet():
        if mlflow.get_experiment_by_name(project.name) is None:
            mlflow.create_experiment(project.name, artifact_location=f"{Path(project.work).resolve()}/mlartifacts")
        mlflow.set_experiment(project.name)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """MLflow and transformers narrate; the narration of a round is ours, errors still come through."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    names = ("mlflow", "mlflow.store.db.utils", "transformers", "alembic")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
