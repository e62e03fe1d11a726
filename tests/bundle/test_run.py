"""tao_round, run for real: the tasks of the YAML in their order with its parameters, once refused and once promoted.

Everything is real but the engine, the model's size and the workspace behind the last task.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from taolake import stages
from tests.bundle.resolve import ROOT, bundle, read
from tests.bundle.runner import EXCLUDED, SUCCESS, Run, jvm
from tests.workspace.fake import Workspace, serving

pytestmark = pytest.mark.slow  # two runs of all tasks, each in a process of its own: five minutes on two cores
MODEL = "main.tuning.tuned"
REPAIRED = ("gate", "promoted")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The job's run, refused; then, with a limit that lets the same model pass, its repair."""
    folder = tmp_path_factory.mktemp("job")
    project, config = read(ROOT / "conf" / "smoke.yml"), folder / "smoke.yml"
    project |= {"lake": str(folder / "lake"), "serve": {"inference_table": False}}
    params = {
        "config": str(config), "catalog": "", "schema": "", "work": str(folder / "work"),
        "prompts": str(folder / "log.jsonl"), "model": str(folder / "model"), "devices": "1",
        "processes": "1", "name": MODEL, "experiment": "rounds", "endpoint": "chat",
    }  # fmt: skip
    workspace = Workspace()
    workspace.add_version(MODEL)
    with serving(workspace) as url, jvm() as shared:
        login = {"DATABRICKS_HOST": url, "DATABRICKS_TOKEN": "x", "HOME": str(folder)}
        path = {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
        run = Run(bundle("dev")["resources"]["jobs"], "tao_round", params, folder, {**shared, **login, **path})
        config.write_text(yaml.safe_dump(project | {"gate": {"min_gain": 0.5}}))
        first = run.start()
        refused = {"states": first, "ran": list(run.ran), "gate": json.loads(run.exits.get("gate") or "{}")}
        run.ran.clear()
        config.write_text(yaml.safe_dump(project | {"gate": {"min_gain": -1.0}}))
        second = run.start(again=REPAIRED)
        promoted = {"states": second, "ran": list(run.ran), "gate": json.loads(run.exits.get("gate") or "{}")}
    logs = {path.stem: path.read_text()[-3000:] for path in folder.glob("*.log")}
    yield {"refused": refused, "promoted": promoted, "run": run, "logs": logs, "workspace": workspace, "folder": folder}


def failed(story: dict[str, Any], which: str) -> dict[str, str]:
    bad = [name for name, state in story[which]["states"].items() if state not in (SUCCESS, EXCLUDED)]
    return {name: story["logs"].get(name, "") for name in bad}


def test_a_refused_round_ends_at_its_condition(story: dict[str, Any]) -> None:
    refused = story["refused"]
    assert failed(story, "refused") == {}
    assert {name for name, state in refused["states"].items() if state == EXCLUDED} == {"register", "deploy"}
    names = [stage.name for stage in stages.STAGES][:-1]
    assert refused["ran"] == [*names, "promoted", "tour"]
    assert refused["gate"]["promoted"] is False


def test_its_repair_repeats_nothing_and_ends_with_a_served_model(story: dict[str, Any]) -> None:
    promoted, workspace = story["promoted"], story["workspace"]
    assert failed(story, "promoted") == {}
    assert set(promoted["states"].values()) == {SUCCESS}
    assert promoted["ran"] == ["gate", "promoted", "register", "deploy"]
    assert promoted["gate"]["promoted"] is True
    assert story["run"].outcomes == {"promoted": "true"}
    assert workspace.aliases == {MODEL: {"live": 1}}
    asked = [c.body["messages"][0]["content"] for c in workspace.calls if c.path.endswith("/invocations")]
    assert asked[0] == "Are you there?"
    assert len(asked) == 9
    assert all(question.startswith("tag the ") for question in asked[1:])


def test_every_task_leaves_with_a_summary_and_its_values(story: dict[str, Any]) -> None:
    run = story["run"]
    assert run.values["gate"]["promoted"] == "true"
    for name in [*(stage.name for stage in stages.STAGES), "deploy"]:
        assert run.values[name][name] == run.exits[name]
        assert isinstance(json.loads(run.exits[name]), dict)
    assert json.loads(run.exits["deploy"]) == {"endpoint": "chat", "version": 1, "served": True, "live": 1}


def test_the_registered_version_names_where_it_comes_from(
    story: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    store = f"sqlite:///{(story['folder'] / 'work').resolve()}/mlflow.db"
    client = mlflow.MlflowClient(store, store)
    version = client.get_model_version_by_alias(MODEL, "champion")
    assert version.tags["taolake.round"] == "1"
    assert int(version.tags["taolake.table.selections"]) > 0
    inputs = client.get_run(version.run_id).inputs.dataset_inputs
    sources = {i.dataset.name: json.loads(i.dataset.source) for i in inputs}
    assert set(sources) == {"selections", "evaluations"}
    assert Path(sources["selections"]["path"]) == (story["folder"] / "lake" / "selections").resolve()
    assert sources["selections"]["delta_table_version"] == int(version.tags["taolake.table.selections"])
