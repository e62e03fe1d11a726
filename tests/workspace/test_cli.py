"""`taolake deploy`, by hand; and the Databricks CLI against the fake workspace, where it is installed."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from taolake import cli
from tests.projects import fake_project
from tests.workspace.fake import Workspace, serving

ROOT = Path(__file__).parents[2]
MODEL = "main.tuning.tuned"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    workspace = Workspace()
    with serving(workspace) as url:
        for name in [name for name in os.environ if name.startswith("DATABRICKS_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("DATABRICKS_HOST", url)
        monkeypatch.setenv("DATABRICKS_TOKEN", "x")
        yield workspace


@pytest.fixture
def config(tmp_path: Path) -> str:
    project = fake_project(
        tmp_path, lake="main.tuning", register={"name": MODEL}, serve={"endpoint": "chat", "canary": 25}
    )
    path = tmp_path / "mine.yml"
    path.write_text(yaml.safe_dump(project.model_dump(mode="json", by_alias=True)))
    return str(path)


def run(*words: str) -> Result:
    return CliRunner().invoke(cli.app, ["deploy", *words])


def test_plan_deploy_and_roll_back_by_hand(here: Workspace, config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for version in (1, 2):
        here.add_version(MODEL)
        here.aliases.setdefault(MODEL, {})["champion"] = version
        planned = run(config, "--plan")
        assert planned.exit_code == 0, planned.output
        assert planned.output.splitlines()[-1] == f"done     version {version} is live"
        assert f"live {version}" not in str(here.aliases)
        done = run(config)
        assert done.exit_code == 0, done.output
        assert [line[9:] for line in planned.output.splitlines()] == done.output.splitlines()
    assert here.aliases[MODEL] == {"champion": 2, "live": 2, "previous": 1}
    assert run(config, "--rollback").exit_code == 0
    assert here.aliases[MODEL] == {"champion": 1, "live": 1}
    assert run(config, "--version", "2").exit_code == 1  # on record as rolled back


def test_what_cannot_be_served_is_said(here: Workspace, config: str, tmp_path: Path) -> None:
    here.models[MODEL] = {"full_name": MODEL}
    refused = run(config)
    assert (refused.exit_code, "has no alias 'champion'" in refused.output) == (2, True)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"lake": "main.tuning"}, "serve.endpoint is empty"),
        ({"lake": "main.tuning", "serve": {"endpoint": "chat"}}, "only what is in Unity Catalog can be served"),
        ({"serve": {"endpoint": "chat"}}, "fake has no alias 'champion'"),  # no catalog: served here
    ]
    for number, (change, said) in enumerate(changes):
        project, path = fake_project(tmp_path, **change), tmp_path / f"{number}.yml"
        path.write_text(yaml.safe_dump(project.model_dump(mode="json", by_alias=True)))
        refused = run(str(path))
        assert (refused.exit_code, said in refused.output) == (2, True)
    assert here.changes == []


@pytest.mark.skipif(shutil.which("databricks") is None, reason="the Databricks CLI is not on the PATH")
@pytest.mark.parametrize("target", ["dev", "staging", "prod"])
def test_the_databricks_cli_validates_and_deploys(here: Workspace, tmp_path: Path, target: str) -> None:
    env = {**os.environ, "HOME": str(tmp_path)}
    for words in (["validate", "--strict"], ["deploy", "--auto-approve"], ["run", "tao_smoke"]):
        done = subprocess.run(["databricks", "bundle", *words, "-t", target], cwd=ROOT, env=env, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
    assert {job["name"].split()[-1] for job in here.jobs.values()} == {
        "tao_flywheel", "tao_label", "tao_monitor", "tao_round", "tao_smoke",
    }  # fmt: skip
