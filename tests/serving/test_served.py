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
    told = served.told(project)
    assert told is not None
    assert told() == (served.plan(project), {})
    client.set_registered_model_tag("fake", "taolake_routes", '{"1": 90, "2": 10}')
    assert told() == (served.plan(project), {"fake/1": 90.0, "fake/2": 10.0})
    client.delete_registered_model_alias("fake", "canary")
    assert [version.entity for version in told()[0].versions] == ["fake/live"]


@pytest.mark.usefixtures("found")
def test_a_version_is_the_same_server_under_every_alias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A promoted canary becomes `live` and need not be loaded again."""
    monkeypatch.setattr(served, "_there", lambda project, alias: alias == "previous")
    monkeypatch.setattr(served, "registered", lambda project, alias, work: ("w2", "w2", "fake/2"))
    versions: list[dict[str, Any]] = [{"name": "live"}, {"name": "canary"}, {"name": "previous"}]
    plan = served.plan(fake_project(tmp_path, gateway={"versions": versions}))
    assert [(v.name, v.url, v.model) for v in plan.versions] == [(n, "fake/2", "fake/2") for n in ("live", "previous")]
    assert [model.name for model in plan.models] == ["fake/2"]


def test_versions_that_are_no_aliases_are_not_looked_up(tmp_path: Path) -> None:
    assert served.told(fake_project(tmp_path, gateway={"versions": [{"name": "a", "model": "folder"}]})) is None
