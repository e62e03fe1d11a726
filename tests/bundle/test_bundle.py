"""The bundle without a workspace: types, names, references, the jobs' graphs, and that notebooks and stages agree."""

import importlib.util
import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from taolake import notebook, stages
from taolake.config import load
from tests.bundle.resolve import ROOT, TARGETS, bundle, files, read, resources_in_files
from tests.notebook import NOTEBOOKS, FakeDbutils

CLASSES = {
    "jobs": "Job",
    "schemas": "Schema",
    "volumes": "Volume",
    "registered_models": "RegisteredModel",
    "experiments": "MlflowExperiment",
    "secret_scopes": "SecretScope",
    "dashboards": "Dashboard",
    "alerts": "Alert",
}
ON_AI_RUNTIME = ROOT / "variants" / "train_on_ai_runtime.yml"
CLOUDS = sorted((ROOT / "clouds").glob("*.json"))
JOBS = sorted(key for _, kind, key, _ in resources_in_files() if kind == "jobs")
COMPUTE = {"job_cluster_key", "environment_key", "existing_cluster_id", "new_cluster"}


def typed(kind: str, body: dict[str, Any]) -> Any:
    """A resource as the class of `databricks-bundles`; unknown fields, wrong types and enums raise."""
    module = importlib.import_module(f"databricks.bundles.{kind}")
    return getattr(module, CLASSES[kind]).from_dict({k: v for k, v in body.items() if k != "_file"})


def job(key: str, target: str = "prod") -> dict[str, Any]:
    found = bundle(target)["resources"]["jobs"][key]
    assert isinstance(found, dict)
    return found


def tasks(key: str) -> dict[str, dict[str, Any]]:
    listed = job(key)["tasks"]
    assert len({task["task_key"] for task in listed}) == len(listed) > 0
    return {task["task_key"]: task for task in listed}


def above(key: str, task: str) -> list[str]:
    return [each["task_key"] for each in tasks(key)[task].get("depends_on", [])]


def test_there_is_what_the_jobs_need() -> None:
    kinds = Counter(kind for _, kind, _, _ in resources_in_files())
    assert set(kinds) == set(CLASSES)
    assert JOBS == ["tao_flywheel", "tao_label", "tao_monitor", "tao_round", "tao_smoke"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("cloud", [None, *CLOUDS], ids=lambda cloud: cloud.stem if cloud else "default")
def test_every_resource_is_what_databricks_bundles_says_it_is(target: str, cloud: Path | None) -> None:
    resolved = bundle(target, cloud)["resources"]
    seen = 0
    for kind, items in resolved.items():
        for key, body in items.items():
            made = typed(kind, body)
            assert json.dumps(made.as_dict()), f"{kind}.{key}"
            seen += 1
    assert seen == len(resources_in_files()) > 10
    assert "${" not in json.dumps(resolved)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("jobs", "bogus", 1),
        ("volumes", "volume_type", "NOPE"),
        ("schemas", "grants", [{"principal": "a", "privileges": ["FLY"]}]),
    ],
)
def test_the_types_refuse_what_is_wrong(kind: str, field: str, value: Any) -> None:
    body = next(iter(bundle("dev")["resources"][kind].values()))
    with pytest.raises((ValueError, TypeError)):
        typed(kind, {**body, field: value})


def test_targets_are_the_three_and_dev_is_the_default() -> None:
    targets = read(ROOT / "databricks.yml")["targets"]
    assert tuple(targets) == TARGETS
    assert [name for name, target in targets.items() if target.get("default")] == ["dev"]
    assert [target["mode"] for target in targets.values()] == ["development", "production", "production"]
    for name in TARGETS[1:]:
        assert targets[name]["workspace"]["root_path"].startswith("/Workspace/"), name


def test_every_variable_is_explained_and_used() -> None:
    variables = read(ROOT / "databricks.yml")["variables"]
    text = "".join(path.read_text(encoding="utf-8") for path in [ROOT / "databricks.yml", *files()])
    assert len(variables) > 10
    for name, spec in variables.items():
        assert len(spec["description"]) > 20, name
        assert f"${{var.{name}}}" in text, f"nothing uses variable {name}"


def test_clouds_name_the_same_variables() -> None:
    assert [path.stem for path in CLOUDS] == ["aws", "azure", "gcp"]
    variables = read(ROOT / "databricks.yml")["variables"]
    aws, *others = [json.loads(path.read_text()) for path in CLOUDS]
    assert aws == {name: variables[name]["default"] for name in aws}
    assert all(set(other) == set(aws) == {n for n in variables if n.endswith("_node")} for other in others)


def test_keys_are_unique_across_all_kinds_and_each_file_holds_one() -> None:
    found = resources_in_files()
    assert [key for key, count in Counter(key for _, _, key, _ in found).items() if count > 1] == []
    for path, kind, key, _ in found:
        assert path.name == f"{key}.{ {'jobs': 'job'}.get(kind, kind.rstrip('s')) }.yml"
    assert len({path for path, _, _, _ in found}) == len(found)


def test_names_come_from_resources_and_not_from_variables() -> None:
    """In development mode the schema's name is not the variable's: only the schema itself may use it."""
    users = {path.name for path in files() if re.search(r"\$\{var\.(schema|catalog)\}", path.read_text())}
    assert users == {"tuning.schema.yml", "smoke.schema.yml"}
    assert job("tao_round", "dev")["parameters"][3]["default"] == "dev_ann_taolake"
    values = {each["name"]: each["default"] for each in job("tao_round", "dev")["parameters"]}
    assert values["name"] == "main.dev_ann_taolake.dev_ann_tuned"
    assert values["work"] == "/Volumes/main/dev_ann_taolake/files"


@pytest.mark.parametrize("key", JOBS)
def test_dependencies_exist_and_go_up(key: str) -> None:
    before: set[str] = set()
    for name, task in tasks(key).items():
        for each in task.get("depends_on", []):
            assert each["task_key"] in before, f"{key}.{name} depends on {each['task_key']}, which is not above it"
            asked = "condition_task" in tasks(key)[each["task_key"]]
            assert each.get("outcome") in (("true", "false") if asked else (None,)), f"{key}.{name}"
        before.add(name)


@pytest.mark.parametrize("key", JOBS)
def test_a_task_runs_on_a_cluster_that_is_defined_with_the_pinned_libraries(key: str) -> None:
    found = job(key)
    clusters = {each["job_cluster_key"]: each["new_cluster"] for each in found["job_clusters"]}
    used = set()
    for name, task in tasks(key).items():
        if task.keys() & {"condition_task", "run_job_task"}:
            assert not COMPUTE & task.keys()
            continue
        assert COMPUTE & task.keys() == {"job_cluster_key"}, name
        used.add(task["job_cluster_key"])
        lock, wheel = task["libraries"]
        assert (ROOT / lock["requirements"].partition("/files/")[2]).is_file()
        assert wheel == {"whl": "../dist/*.whl"}
        assert task["timeout_seconds"] <= found["timeout_seconds"], name
    assert used == set(clusters)
    for cluster in clusters.values():
        assert cluster["data_security_mode"] == "SINGLE_USER"
        assert re.fullmatch(r"1[89]\.x-(gpu|cpu)-ml-scala2\.13", cluster["spark_version"])
        single = cluster["num_workers"] == 0
        assert single == (cluster.get("custom_tags") == {"ResourceClass": "SingleNode"})


@pytest.mark.parametrize("key", JOBS)
def test_a_job_is_queued_limited_in_time_and_started_in_one_way(key: str) -> None:
    found = job(key)
    assert found["queue"] == {"enabled": True}
    assert found["max_concurrent_runs"] == 1
    assert found["timeout_seconds"] > 0
    assert "on_failure" in found["email_notifications"]
    assert len({"schedule", "trigger", "continuous"} & found.keys()) <= 1
    for way in ("schedule", "trigger"):  # UNPAUSED written here would run in development too
        assert "pause_status" not in found.get(way, {})


@pytest.mark.parametrize("key", ["tao_monitor", "tao_flywheel"])
def test_a_watching_job_starts_by_the_clock_or_when_a_table_grew(key: str, tmp_path: Path) -> None:
    assert set(job(key)["trigger"]) == {"periodic"}
    update = {"table_names": ["main.taolake.inference_log"], "min_time_between_triggers_seconds": 3600}
    chosen = tmp_path / "variable-overrides.json"
    chosen.write_text(json.dumps({f"{key.removeprefix('tao_')}_trigger": {"table_update": update}}))
    made = typed("jobs", bundle("prod", chosen)["resources"]["jobs"][key])
    assert made.trigger.table_update.table_names == update["table_names"]
    assert made.trigger.periodic is None and made.schedule is None


def test_the_graph_of_a_round_is_the_order_of_its_stages() -> None:
    found = tasks("tao_round")
    names = [stage.name for stage in stages.STAGES]
    assert [name for name in found if name in names] == names
    for earlier, later in itertools.pairwise(names):
        between = ["promoted"] if later == "register" else [earlier]
        assert above("tao_round", later) == between
    assert above("tao_round", "promoted") == ["gate"]
    assert found["promoted"]["condition_task"] == {
        "op": "EQUAL_TO", "left": "{{tasks.gate.values.promoted}}", "right": "true",
    }  # fmt: skip
    assert found["register"]["depends_on"] == [{"task_key": "promoted", "outcome": "true"}]
    assert set(found) - set(names) == {"promoted", "deploy", "tour"}
    assert above("tao_round", "deploy") == ["register"]


def test_a_canary_is_decided_even_where_a_log_cannot_be_read() -> None:
    assert {name: task.get("run_if", "ALL_SUCCESS") for name, task in tasks("tao_monitor").items()} == {
        "collect": "ALL_SUCCESS", "monitor": "ALL_SUCCESS", "canary": "ALL_DONE",
    }  # fmt: skip


def test_a_gpu_of_the_training_node_is_a_process() -> None:
    """The four of the default node on every cloud, by default; a batch of the project file is shared among them."""
    values = {each["name"]: each["default"] for each in job("tao_round")["parameters"]}
    found = load(ROOT / values["config"])
    assert notebook._changed(found, {"processes": str(values["processes"])}).train.processes == 4
    assert {key for key in JOBS if "train_gpus" in (ROOT / "resources" / f"{key}.job.yml").read_text()} == {
        key for key in JOBS if key != "tao_smoke"
    }


@pytest.mark.parametrize("target", TARGETS)
def test_a_variant_trains_on_ai_runtime(target: str) -> None:
    """Handed over by a cluster, trained without one, recorded by a cluster; nothing else of the job changes."""
    plain, other = (bundle(target, variant=each)["resources"]["jobs"]["tao_round"] for each in (None, ON_AI_RUNTIME))
    made = typed("jobs", other)
    assert [environment.environment_key for environment in made.environments] == ["ai_runtime"]
    before, after = ({task["task_key"]: task for task in each["tasks"]} for each in (plain, other))
    assert {name for name in after if before.get(name) != after[name]} == {"hand_over", "train_on_ai_runtime", "train"}
    assert [name for name in after if name in before] == list(before)
    chain = ["select", "hand_over", "train_on_ai_runtime", "train", "evaluate"]
    assert all(
        earlier in [each["task_key"] for each in after[later]["depends_on"]]
        for earlier, later in itertools.pairwise(chain)
    )
    assert {name: after[name].get("job_cluster_key") for name in chain[1:4]} == {
        "hand_over": "cpu", "train_on_ai_runtime": None, "train": "cpu",
    }  # fmt: skip
    parameters = {each["name"]: each["default"] for each in other["parameters"]}
    (deployment,) = after["train_on_ai_runtime"]["ai_runtime_task"]["deployments"]
    assert deployment["compute"]["accelerator_count"] == parameters["processes"] == 8
    variables = other["environment_variables"][0]["spec"]["variables"]
    assert variables["TAOLAKE_WORK"] == parameters["work"]
    script = (ROOT / "resources" / deployment["command_path"]).read_text(encoding="utf-8")
    assert set(re.findall(r"\$(TAOLAKE_\w+)", script)) == set(variables)
    assert importlib.util.find_spec(re.findall(r"python -m (taolake\S+)", script)[0])
    assert "${" not in json.dumps(other)


def test_models_run_where_there_is_a_gpu() -> None:
    found = tasks("tao_round")
    gpu = {name for name, task in found.items() if task.get("job_cluster_key", "cpu") != "cpu"}
    assert gpu == {"generate", "score", "train", "evaluate", "register"}
    clusters = {each["job_cluster_key"]: each["new_cluster"] for each in job("tao_round")["job_clusters"]}
    for name in ("generate", "evaluate"):
        assert clusters[name]["spark_conf"]["spark.task.resource.gpu.amount"] == "1"


def test_every_notebook_is_used_once_and_is_one() -> None:
    used = [
        (Path(body["_file"]).parent / task["notebook_task"]["notebook_path"]).resolve()
        for body in bundle("dev", variant=ON_AI_RUNTIME)["resources"]["jobs"].values()
        for task in body["tasks"]
        if "notebook_task" in task
    ]
    assert sorted(used) == sorted(NOTEBOOKS.resolve().glob("*.py"))
    assert len(used) > 14
    assert all(path.read_text().startswith("# Databricks notebook source\n") for path in used)
    for name, task in tasks("tao_round").items():
        if name in {stage.name for stage in stages.STAGES}:
            assert task["notebook_task"]["notebook_path"].endswith(f"_{name}.py")


@pytest.mark.parametrize("key", JOBS)
def test_the_parameters_of_a_job_are_the_widgets_of_its_notebooks(key: str) -> None:
    parameters = [each["name"] for each in job(key)["parameters"]]
    assert parameters[: len(notebook.WIDGETS)] == list(notebook.WIDGETS)
    extra = parameters[len(notebook.WIDGETS) :]
    for name, task in tasks(key).items():
        if "notebook_task" not in task:
            continue
        path = ROOT / "resources" / task["notebook_task"]["notebook_path"]
        text = path.read_text(encoding="utf-8")
        assert "notebook.begin(spark, dbutils)" in text, name
        assert re.findall(r'notebook\.widget\(dbutils, "(\w+)"', text) == extra
        assert "dbutils.widgets" not in text
    assert all(isinstance(each["default"], str | int) for each in job(key)["parameters"])


def test_widgets_are_made_before_they_are_read() -> None:
    dbutils = FakeDbutils()
    assert [notebook.widget(dbutils, name, *spec) for name, spec in notebook.WIDGETS.items()]
    assert dbutils.defaults == {name: default for name, (default, _) in notebook.WIDGETS.items()}


def test_task_values_that_are_asked_for_are_set() -> None:
    """`notebook.finish` gives the stage's detail, and each yes or no in it, such as the gate's."""
    asked = re.findall(r"\{\{tasks\.(\w+)\.values\.(\w+)\}\}", "".join(path.read_text() for path in files()))
    assert asked == [("trigger", "due"), ("trigger", "next_round"), ("gate", "promoted")]
    notebook_of_it = (NOTEBOOKS / "25_trigger.py").read_text(encoding="utf-8")
    assert 'taskValues.set(key="next_round"' in notebook_of_it


def test_conditions_ask_for_parameters_that_exist() -> None:
    for key in JOBS:
        names = {each["name"] for each in job(key)["parameters"]}
        text = json.dumps(job(key))
        assert set(re.findall(r"\{\{job\.parameters\.(\w+)\}\}", text)) <= names
    assert "{{job.parameters.answers}}" in json.dumps(job("tao_label"))


def test_project_files_of_the_jobs_exist() -> None:
    for target in TARGETS:
        for key, body in bundle(target)["resources"]["jobs"].items():
            config = next(each["default"] for each in body["parameters"] if each["name"] == "config")
            assert load(ROOT / config).name in ("lakehouse", "smoke"), key


def test_staging_and_prod_grant_the_least_and_dev_nothing() -> None:
    for target in TARGETS:
        found = bundle(target)["resources"]
        grants = {
            (kind, grant["principal"]): grant["privileges"]
            for kind in ("schemas", "registered_models")
            for body in found[kind].values()
            for grant in body.get("grants", [])
        }
        if target == "dev":
            assert grants == {}
            continue
        assert grants == {
            ("schemas", "taolake-readers"): ["USE_SCHEMA", "SELECT"],
            ("registered_models", "taolake-readers"): ["EXECUTE"],
        }


def test_no_secret_is_written_down() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in [ROOT / "databricks.yml", *files()])
    assert not re.search(r"(?i)(token|password|secret|key)\s*:\s*[\"']?[A-Za-z0-9_-]{20,}", text)
    assert "dapi" not in text


@pytest.mark.parametrize("key", ["quality", "production"])
def test_a_dashboard_asks_for_tables_and_columns_that_exist(key: str) -> None:
    from taolake import lake

    body = bundle("dev")["resources"]["dashboards"][key]
    made = json.loads((Path(body["_file"]).parent / body["file_path"]).read_text())
    columns = {table.name: {name for name, _, _ in table.fields()} for table in lake.TABLES}
    for dataset in made["datasets"]:
        query = "".join(dataset["queryLines"])
        (table,) = re.findall(r"FROM (\w+)", query)
        assert table in columns
    queried = {d["name"]: "".join(d["queryLines"]) for d in made["datasets"]}
    names = []
    for widget in (each["widget"] for each in made["pages"][0]["layout"]):
        names.append(widget["name"])
        fields = {field["name"] for field in widget["queries"][0]["query"]["fields"]}
        encodings = widget["spec"]["encodings"]
        shown = [e["fieldName"] for e in encodings.get("columns", encodings.values()) if isinstance(e, dict)]
        assert set(shown) == fields
        assert all(re.search(rf"\b{name}\b", queried[widget["queries"][0]["query"]["datasetName"]]) for name in fields)
    assert len(names) == len(set(names)) >= 4


def test_the_page_of_production_and_its_dashboard_ask_the_same() -> None:
    from taolake import lake
    from taolake.report.monitor import QUERIES

    made = json.loads((ROOT / "dashboards" / "production.lvdash.json").read_text())
    assert {d["name"]: "".join(d["queryLines"]) for d in made["datasets"]} == QUERIES
    columns = {table.name: {name for name, _, _ in table.fields()} for table in lake.TABLES}
    for query in QUERIES.values():
        selected, table = re.findall(r"SELECT (.*) FROM (\w+)", query)[0]
        assert set(selected.split(", ")) <= columns[table]
