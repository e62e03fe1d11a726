"""What a round starts from: decided once, and kept where an alias moves on."""

import json
from pathlib import Path
from typing import Any

import pytest

from taolake.config import Project
from taolake.stages import base, registry, served
from tests.projects import fake_project


def one_version(project: Project) -> Any:
    """A registry of the project's own with version 1; the client that asks it."""
    import mlflow

    registry.connect(project)
    client = mlflow.MlflowClient()
    client.create_registered_model(project.register_.name)
    client.create_model_version(project.register_.name, project.work)
    return client


def note(folder: Path, number: int) -> Any:
    return json.loads((folder / "work" / f"round-{number}" / "base.json").read_text())


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Folders that a version was fetched to; the registry is not asked."""
    asked: list[Path] = []

    def fetch(project: Any, alias: str, work: Path) -> dict[str, str]:
        asked.append(work)
        return {"version": str(len(asked)), "path": str(work / "base")}

    monkeypatch.setattr(base, "_fetch", fetch)
    return asked


def test_the_first_round_and_a_project_without_an_alias_start_from_the_file(
    fetched: list[Path], tmp_path: Path
) -> None:
    plain = fake_project(tmp_path)
    assert base.begin(plain, 2) is plain
    rolling = fake_project(tmp_path, flywheel={"base": "live"})
    assert base.begin(rolling, 1) is rolling
    assert fetched == []


def test_a_round_goes_on_from_where_it_began(fetched: list[Path], tmp_path: Path) -> None:
    project = fake_project(tmp_path, flywheel={"base": "live"})
    assert base.project_of(project, 2) is project, "looking begins nothing"
    begun = base.begin(project, 2)
    assert begun.model.path == str(tmp_path / "work" / "round-2" / "base")
    assert begun.model.max_tokens == project.model.max_tokens
    assert base.begin(project, 2) == begun == base.project_of(project, 2)
    assert base.begin(project, 3).model.path != begun.model.path
    assert len(fetched) == 2 and note(tmp_path, 2)["alias"] == "live"


def test_an_adopted_version_is_the_project_s_own_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No copy, and so no answers that count as self-made."""
    project = fake_project(tmp_path, flywheel={"base": "live"})
    client = one_version(project)
    client.set_model_version_tag("fake", "1", "taolake.adopted", "true")
    monkeypatch.setattr(served, "registered", lambda *given: ("weights", "tokenizer", "fake/1"))
    assert base.begin(project, 2) is project
    assert note(tmp_path, 2) == {"alias": "live", "path": "no-model", "version": "1"}


def test_a_tuned_version_is_one_folder_and_lineage_knows_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from taolake.stages.round import policy

    project = fake_project(tmp_path, flywheel={"base": "live"})
    client = one_version(project)
    for name in ("weights", "tokenizer"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.json").write_text("{}")
    found = (str(tmp_path / "weights"), str(tmp_path / "tokenizer"), "fake/1")
    monkeypatch.setattr(served, "registered", lambda *given: found)
    folder = base.begin(project, 2).model.path
    assert sorted(file.name for file in Path(folder).iterdir()) == ["tokenizer.json", "weights.json"]
    assert client.get_model_version("fake", "1").tags["taolake.whole"] == policy(folder).id


def test_rounds_from_the_same_weights_share_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A job knows its base by path: what a refused round trained would be another job's to the round after it."""
    project = fake_project(tmp_path, flywheel={"base": "live"})
    one_version(project)
    weights = tmp_path / "weights"
    weights.mkdir()
    monkeypatch.setattr(served, "registered", lambda *given: (str(weights), str(weights), "fake/1"))
    (weights / "model.bin").write_text("one")
    second, third = (base.begin(project, number).model.path for number in (2, 3))
    assert second == third and (Path(second) / "model.bin").read_text() == "one"
    (weights / "model.bin").write_text("two")
    fourth = base.begin(project, 4).model.path
    assert (Path(fourth) / "model.bin").read_text() == "two"
    assert (Path(second) / "model.bin").read_text() == "one", "rounds that began from it go on from it"
    assert [f.name for f in (tmp_path / "work").glob("round-*/*")] == ["base.json"] * 3, "no copy is left"


def test_the_untuned_model_does_not_replace_a_champion(tmp_path: Path) -> None:
    project = fake_project(tmp_path)
    client = one_version(project)
    client.set_registered_model_alias("fake", "champion", "1")
    with pytest.raises(ValueError, match="version 1 of fake is champion already"):
        base.adopt(project)
    client.set_model_version_tag("fake", "1", "taolake.adopted", "true")
    assert base.adopt(project) == 1
