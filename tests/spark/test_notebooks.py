"""Notebooks: one per stage, thin, and they run. Those after select need real models: tests/e2e runs them."""

import ast
import json
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.figure import Figure
from pyspark.sql import SparkSession

from taolake import lake, notebook, stages
from taolake.stages.round import Round
from tests.notebook import NOTEBOOKS, FakeDbutils, run_notebook
from tests.projects import fake_project, write_log

NAMES = ["00_tour"] + [f"{number:02d}_{stage.name}" for number, stage in enumerate(stages.STAGES, start=1)]
OTHERS = ["12_deploy", "13_hand_over", "20_ask", "21_answers", "22_collect", "23_monitor", "24_canary", "25_trigger"]
OTHERS += ["30_smoke"]
FILES = sorted(NOTEBOOKS.glob("*"))
QUESTIONS = [f"How many of kind {i}?" for i in range(12)]


def parsed(name: str) -> ast.Module:
    return ast.parse((NOTEBOOKS / f"{name}.py").read_text(encoding="utf-8"))


def test_there_is_one_notebook_per_stage_in_order() -> None:
    assert len(NAMES) == 12
    assert [file.name for file in FILES if file.is_file()] == [f"{name}.py" for name in NAMES + OTHERS]


@pytest.mark.parametrize("name", NAMES + OTHERS)
def test_a_notebook_is_thin_and_in_databricks_source_format(name: str) -> None:
    text = (NOTEBOOKS / f"{name}.py").read_text(encoding="utf-8")
    assert text.startswith("# Databricks notebook source\n# MAGIC %md\n")
    assert "\n# COMMAND ----------\n" in text
    assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda) for node in ast.walk(parsed(name)))
    code = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert 5 <= len(code) <= 20


@pytest.mark.parametrize("name", NAMES + OTHERS)
def test_every_comment_is_a_marker_databricks_knows(name: str) -> None:
    """A mistyped `# MAGIC` would be a comment in a code cell, and its text would not be shown."""
    lines = (NOTEBOOKS / f"{name}.py").read_text(encoding="utf-8").splitlines()
    comments = [line for line in lines if line.startswith("#")]
    known = re.compile(r"# Databricks notebook source|# COMMAND -{10}|# MAGIC( .*)?")
    assert [line for line in comments if not known.fullmatch(line)] == []


@pytest.mark.parametrize("stage", stages.STAGES, ids=lambda stage: stage.name)
def test_a_notebook_runs_its_stage_and_shows_what_it_writes(stage: stages.Stage) -> None:
    text = (NOTEBOOKS / f"{NAMES[stages.STAGES.index(stage) + 1]}.py").read_text(encoding="utf-8")
    assert re.findall(r'stages\.run\(round_, "(\w+)"\)', text) == [stage.name]
    assert f"display(round_.lake.read(lake.{stage.writes.name.upper()})" in text
    assert f'notebook.finish(dbutils, "{stage.name}", outcome)' in text


# A round by notebooks; tests/e2e/test_round.py has one too, of real parts.
by_notebooks = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Ingest to select by notebook, on the fake engine; then the tour, with an evaluation put on record by hand."""
    folder = tmp_path_factory.mktemp("notebooks")
    write_log(folder / "log.jsonl", [*QUESTIONS, QUESTIONS[0]], b"{")
    generate = {"n": 6, "review_n": 0, "strategies": [{"name": "plain", "share": 1}]}
    config = folder / "project.yml"
    config.write_text(yaml.safe_dump(fake_project(folder, generate=generate).model_dump(mode="json", by_alias=True)))
    params = {"config": str(config)}
    ran = {name: run_notebook(name, spark, params) for name in NAMES[1:8]}
    again = run_notebook("02_generate", spark, params)
    round_ = notebook.open_round(spark, str(config))
    put_evaluation_on_record(round_)
    ran["00_tour"] = run_notebook("00_tour", spark, params)
    return {"round": round_, "ran": ran, "again": again}


def put_evaluation_on_record(round_: Round) -> None:
    """Two policies, two prompts, pass@1 and pass@4; the tuned one is always right."""
    found = {"evaluation": "e", "base": "old", "tuned": "new"}
    values = {("old", "p", 1): 0.25, ("old", "q", 1): 0.75, ("old", "p", 4): 0.5, ("old", "q", 4): 1.0}
    values |= {("new", prompt, k): 1.0 for prompt in "pq" for k in (1, 4)}
    rows = [("e", model, prompt, f"pass_at_{k}", value) for (model, prompt, k), value in values.items()]
    spark = round_.lake.spark
    round_.lake.append_once(lake.EVALUATIONS, spark.createDataFrame(rows, lake.EVALUATIONS.schema()), "by hand")
    row = dict.fromkeys(lake.ROUNDS.schema().names) | {
        "round": 1, "stage": "evaluate", "state": "done", "detail": json.dumps(found), "reads": {},
        "fingerprint": stages.fingerprints(round_.project)["evaluate"], "started_at": datetime.now(UTC),
    }  # fmt: skip
    round_.lake.merge(lake.ROUNDS, spark.createDataFrame([row], lake.ROUNDS.schema()))


def detail(finished: dict[str, Any], name: str) -> Any:
    return json.loads(finished["ran"][name].exited)


@by_notebooks
def test_each_notebook_leaves_with_its_task_value(finished: dict[str, Any]) -> None:
    records = finished["round"].records()
    assert list(finished["ran"]) == [*NAMES[1:8], NAMES[0]]
    for name, dbutils in finished["ran"].items():
        if name == "00_tour":
            assert (dbutils.values, dbutils.exited) == ({}, None)
            continue
        stage = name[3:]
        detail = records[stage].detail
        flags = {key: str(value).lower() for key, value in detail.items() if isinstance(value, bool)}
        assert dbutils.values == {stage: dbutils.exited} | flags
        assert json.loads(dbutils.exited) == detail
        assert records[stage].state == "done"


@by_notebooks
def test_ingest_accounts_for_every_line(finished: dict[str, Any]) -> None:
    counts = detail(finished, "01_ingest")
    assert {key: counts[key] for key in ("in", "kept", "folded", "quarantined")} == {
        "in": 14, "kept": 12, "folded": 1, "quarantined": 1,
    }  # fmt: skip
    assert counts["train"] + counts["holdout"] == 12
    assert [frame.count() for frame in finished["ran"]["01_ingest"].shown] == [12, 1]


@by_notebooks
def test_generate_to_reward_write_the_rows_of_the_plan(finished: dict[str, Any]) -> None:
    counts = detail(finished, "01_ingest")
    train, holdout = counts["train"], counts["holdout"]
    assert holdout > 0
    base = 6 * train + (1 + 4) * holdout
    here = finished["round"].lake
    made = Counter(row["stream"] for row in here.read(lake.CANDIDATES).collect())
    assert detail(finished, "02_generate")["candidates"] == base
    assert made == {"A": 6 * train + 4 * holdout, "G": holdout}
    assert here.read(lake.PREFERENCES).count() == 0
    # Two regex scorers judge every candidate; agreement knows no greedy answers.
    scored = Counter(row["scorer"] for row in here.read(lake.SCORES).collect())
    assert scored == {"query": base, "judge": base, "agrees": base - holdout}
    assert here.read(lake.REWARDS).count() == base - holdout
    assert detail(finished, "05_reward")["candidates"] == base - holdout


@by_notebooks
def test_the_table_shown_is_the_one_written(finished: dict[str, Any]) -> None:
    for name, stage in zip(NAMES[1:8], stages.STAGES, strict=False):
        assert finished["ran"][name].shown[0].columns == stage.writes.schema().names


@by_notebooks
def test_a_second_run_does_nothing_and_says_the_same(finished: dict[str, Any]) -> None:
    assert finished["again"].exited == finished["ran"]["02_generate"].exited


@by_notebooks
def test_the_tour_draws_every_step(finished: dict[str, Any]) -> None:
    figures = finished["ran"]["00_tour"].shown
    assert [type(figure) for figure in figures] == [Figure] * 5
    titles = [axes.get_title() for figure in figures for axes in figure.axes]
    assert titles[0] == "12 prompts by split"
    bars = [[patch.get_width() for patch in axes.patches] for axes in figures[0].axes]
    counts = detail(finished, "01_ingest")
    assert bars == [[counts["holdout"], counts["train"]], [1]]
    rewarded = finished["round"].lake.read(lake.REWARDS).where("reward is not null")
    rewarded = rewarded.join(finished["round"].lake.read(lake.PROMPTS).where("split = 'train'"), "prompt_id")
    assert sum(patch.get_height() for patch in figures[2].axes[0].patches) == rewarded.count() > 0
    kinds = {
        row["kind"]: row["count"]
        for row in finished["round"].lake.read(lake.SELECTIONS).groupBy("kind").count().collect()
    }
    assert kinds["regress"] > 0
    assert [patch.get_width() for patch in figures[3].axes[0].patches] == [kinds[kind] for kind in sorted(kinds)]
    assert sum(patch.get_height() for patch in figures[3].axes[1].patches) == kinds["regress"]
    lines = {line.get_label(): [list(axis) for axis in line.get_data()] for line in figures[4].axes[0].lines}
    assert lines == {"base": [[1, 4], [0.5, 0.75]], "tuned": [[1, 4], [1.0, 1.0]]}


def test_a_catalog_needs_its_schema(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got catalog 'main' and schema '', wanted both"):
        notebook.open_round(spark, "conf/demo.yml", 1, "main")
    with pytest.raises(FileNotFoundError, match=r"no project file nowhere\.yml"):
        notebook.open_round(spark, "nowhere.yml")


def test_catalog_and_schema_replace_the_files_lake(spark: SparkSession) -> None:
    conf = str(NOTEBOOKS.parent / "conf/demo.yml")
    opened = notebook.open_round(spark, conf, "2", "main", "tuning")
    assert (opened.number, opened.lake.location, opened.lake.in_catalog) == (2, "main.tuning", True)
    assert opened.project.lake == "build/demo/lake"


def test_widgets_replace_fields_of_the_project_file(spark: SparkSession) -> None:
    conf = str(NOTEBOOKS.parent / "conf/lakehouse.yml")
    changes = {
        "work": "/Volumes/main/t/files", "prompts": "main.t.asked", "model": "org/base", "devices": "8",
        "processes": "4", "name": "main.t.tuned", "experiment": "/rounds", "endpoint": "chat",
    }  # fmt: skip
    dbutils = FakeDbutils({"config": conf, "round": "3", "catalog": "main", "schema": "t", **changes})
    round_ = notebook.begin(spark, dbutils)
    project = round_.project
    assert (round_.number, round_.lake.location, project.work) == (3, "main.t", "/Volumes/main/t/files")
    assert (project.ingest.sources[0].path, project.model.path) == ("main.t.asked", "org/base")
    assert (project.engine.devices, project.train.processes, project.register_.name) == (8, 4, "main.t.tuned")
    assert (project.register_.experiment, project.serve.endpoint) == ("/rounds", "chat")
    plain = notebook.begin(spark, FakeDbutils({"config": conf}))
    assert plain.project.config_hash != project.config_hash
    assert plain.project.model.path == "Qwen/Qwen3-4B-Instruct-2507"


def test_a_job_run_s_id_is_a_round_number(spark: SparkSession) -> None:
    conf = str(NOTEBOOKS.parent / "conf/demo.yml")
    numbers = [notebook.open_round(spark, conf, said).number for said in ("1", "2147483647", "987654321012345")]
    assert numbers[:2] == [1, 2147483647]
    assert 1 <= numbers[2] <= 2147483647
