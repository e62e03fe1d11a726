"""Which versions `taolake serve` serves, by the aliases that a registry has."""

from pathlib import Path
from typing import Any

import pytest

from taolake.stages import registry, served
from tests.projects import fake_project


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions need not be downloaded: each alias is a folder of its own."""
    monkeypatch.setattr(served, "registered", lambda project, alias, work: (alias, alias, f"fake/{alias}"))


@pytest.mark.usefixtures("found")
def test_a_canary_is_served_while_there_is_one(tmp_path: Path) -> None:
    import mlflow

    versions: list[dict[str, Any]] = [{"name": "live"}, {"name": "canary"}]
    project = fake_project(tmp_path, gateway={"versions": versions})
    registry.connect(project)
    client = mlflow.MlflowClient()
    client.create_registered_model("fake")
    client.create_model_version("fake", str(tmp_path))
    assert [version.entity for version in served.plan(project).versions] == ["fake/live"]
    client.set_registered_model_alias("fake", "canary", "1")
    assert [version.entity for version in served.plan(project).versions] == ["fake/live", "fake/canary"]
    routes = served.routes(project)
    assert routes is not None and routes() == {}
    client.set_registered_model_tag("fake", "taolake_routes", '{"1": 90, "2": 10}')
    assert routes() == {"fake/1": 90.0, "fake/2": 10.0}
