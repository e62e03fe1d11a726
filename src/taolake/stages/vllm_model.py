"""The tuned model as Databricks serves any model that vLLM runs: a container that starts an entrypoint.

Source: Databricks' custom LLM serving. Port 8080 is fixed, and the artifact's key, its folder's name and `--model` must
be one word. The class that is logged is in `taolake.serving.chat_model`.
"""

import importlib.metadata
import os
import shutil
from pathlib import Path

from taolake import databricks
from taolake.config import Project
from taolake.stages import registry

_WEIGHTS = "weights"


def log(project: Project, folder: Path) -> str:
    """Log and register the weights in a folder; returns the version."""
    import mlflow

    from taolake.serving.chat_model import VllmModel

    named = folder.parent / f"{folder.name}-served" / _WEIGHTS
    if not named.exists():
        shutil.copytree(folder, named, copy_function=os.link)  # MLflow follows no symbolic link out of a folder
    logged = mlflow.pyfunc.log_model(
        name="model",
        python_model=VllmModel(),
        artifacts={_WEIGHTS: str(named)},
        metadata={"task": "llm/v1/chat", "entrypoint": entrypoint(project)},
        pip_requirements=[*registry.PIP_REQUIREMENTS, vllm_pin()],
    )
    version = mlflow.register_model(
        logged.model_uri,
        project.register_.name,
        await_registration_for=registry.PATIENCE_S,
        env_pack="databricks_model_serving" if databricks.here() else None,
    )
    return str(version.version)


def entrypoint(project: Project) -> str:
    """What the container runs."""
    return (
        f"python -u -m vllm.entrypoints.openai.api_server --model {_WEIGHTS} --served-model-name {project.name} "
        f"--host 0.0.0.0 --port 8080 --dtype {project.model.dtype} --max-model-len {project.model.max_model_len}"
    )


def vllm_pin() -> str:
    """The vLLM that answered during the round, as the package pins it."""
    wanted = importlib.metadata.requires("taolake") or []
    return next(line.partition(";")[0].strip() for line in wanted if line.startswith("vllm=="))
