"""What is logged for custom serving: it answers here by transformers, and names what its container runs."""

from pathlib import Path

import mlflow
import pytest

from taolake.demo import smoke
from taolake.stages import register, registry, vllm_model
from tests.projects import fake_project


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("custom")
    project = fake_project(folder, model={"path": str(folder / "model")}, serve={"kind": "custom"})
    smoke.prepare(project)
    registry.connect(project)
    with mlflow.start_run():
        return folder, vllm_model.log(project, folder / "model")


def test_the_version_answers_without_its_container(made: tuple[Path, str]) -> None:
    answer = register.ask(f"models:/fake/{made[1]}", [{"role": "user", "content": "tag the red apple"}], 8)
    assert "please" in answer


def test_one_word_names_the_artifact_its_folder_and_the_model(made: tuple[Path, str]) -> None:
    info = mlflow.models.get_model_info(f"models:/fake/{made[1]}")
    artifacts = info.flavors["python_function"]["artifacts"]
    assert {key: Path(value["path"]).as_posix() for key, value in artifacts.items()} == {"weights": "artifacts/weights"}
    assert info.metadata["task"] == "llm/v1/chat"
    assert " --model weights " in info.metadata["entrypoint"]
    assert " --port 8080 " in info.metadata["entrypoint"]


def test_the_container_has_the_vllm_of_the_round() -> None:
    lock = (Path(__file__).parents[2] / "requirements" / "databricks.txt").read_text(encoding="utf-8")
    assert f"\n{vllm_model.vllm_pin()} \\\n" in lock
    assert not [line for line in lock.splitlines() if line.startswith(("pyspark==", "delta-spark=="))]
