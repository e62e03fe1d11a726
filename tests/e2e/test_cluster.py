"""The same stages on a real standalone cluster, and on `local-cluster`, give the same tables as on this session."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from pyspark.sql import SparkSession

from taolake import lake, stages
from taolake.config import Project
from tests.projects import fake_project, open_round, write_log

SCRIPT = Path(__file__).parents[2] / "scripts" / "cluster.py"
GENERATE = {"n": 6, "review_n": 0, "chunk_rows": 4096, "strategies": [{"name": "plain", "share": 1}]}
STAGES = ("ingest", "generate")
DRIVE = """
import sys
from pathlib import Path
from taolake import stages
from taolake.cli.common import Opened, load
with Opened(load(Path(sys.argv[1])), 1) as round_:
    print("MASTER", round_.lake.spark.sparkContext.master)
    for name in sys.argv[2:]:
        stages.run(round_, name)
    print("EXECUTORS", round_.lake.spark.sparkContext._jsc.sc().getExecutorMemoryStatus().size() - 1)
"""


def project(folder: Path) -> Project:
    """Enough prompts for both executors, and slow enough for both to be asked."""
    folder.mkdir(parents=True, exist_ok=True)
    write_log(folder / "log.jsonl", [f"question {i}" for i in range(40)])
    engine = {"kind": "fake", "answers": ["select 1", "select 2", "dunno"], "delay_s": 0.05, "devices": 2}
    return fake_project(folder, engine=engine, generate=GENERATE)


def written(made: Project) -> Path:
    config = Path(made.work).parent / "project.yml"
    config.write_text(yaml.safe_dump(made.model_dump(mode="json", by_alias=True)))
    return config


def rows(spark: SparkSession, made: Project) -> list[tuple[str, ...]]:
    found = open_round(spark, made).lake.read(lake.CANDIDATES).collect()
    return sorted((r["candidate_id"], r["strategy"], r["text"], r["status"]) for r in found)


def java_processes(folder: Path) -> list[int]:
    """Processes that name the folder on their command line: the cluster's own."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:  # it ended between the listing and the look
            continue
        if str(folder) in command and "java" in command.split(" ")[0]:
            found.append(process.pid)
    return found


@pytest.fixture(scope="module")
def expected(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, ...]]:
    made = project(tmp_path_factory.mktemp("local"))
    for name in STAGES:
        stages.run(open_round(spark, made), name)
    return rows(spark, made)


def drive(config: Path, before: list[str], **environment: str) -> str:
    command = [*before, sys.executable, "-c", DRIVE, str(config), *STAGES]
    done = subprocess.run(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.mark.slow  # two minutes; executors are killed, and their table compared, in tests/faults
def test_a_standalone_cluster_writes_the_same_table(
    spark: SparkSession, tmp_path: Path, expected: list[tuple[str, ...]]
) -> None:
    made, folder = project(tmp_path / "p"), tmp_path / "cluster"
    said = drive(written(made), [sys.executable, str(SCRIPT), "--folder", str(folder), "--"])
    assert "MASTER spark://127.0.0.1:" in said
    assert "EXECUTORS 2" in said
    assert rows(spark, made) == expected
    asked = {place.parent.parent.parent.name for place in folder.glob("worker-*/app-*/*/stderr")}
    assert asked == {"worker-0", "worker-1"}
    deadline = time.monotonic() + 20
    while (left := java_processes(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []


@pytest.mark.slow  # as above
def test_local_cluster_writes_the_same_table(
    spark: SparkSession, tmp_path: Path, expected: list[tuple[str, ...]]
) -> None:
    made = project(tmp_path)
    said = drive(written(made), [], TAOLAKE_MASTER="local-cluster[2,1,1024]")
    assert "MASTER local-cluster[2,1,1024]" in said
    assert "EXECUTORS 2" in said
    assert rows(spark, made) == expected


@pytest.mark.slow
def test_the_command_s_exit_code_is_the_script_s_and_a_bad_cluster_says_why(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--folder", str(tmp_path), "--workers", "1", "--"]
    done = subprocess.run([*command, sys.executable, "-c", "raise SystemExit(7)"], timeout=120)
    assert done.returncode == 7
    command[-1:] = ["--memory", "none", "--", "true"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "the cluster did not start: ended" in done.stderr
    assert "worker-0.log" in done.stderr
