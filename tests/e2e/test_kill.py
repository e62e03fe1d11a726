"""Kill a run in the middle of generate, start it again: the same tables as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml
from pyspark.sql import SparkSession

from taolake import lake
from taolake.config import Project
from tests.projects import fake_project, open_round, write_log


def start(config: Path, stage: str) -> "subprocess.Popen[str]":
    """`taolake stage NAME` in a process group of its own, as a terminal would have it."""
    command = [sys.executable, "-m", "taolake", "stage", stage, str(config)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: "subprocess.Popen[str]") -> None:
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said


def commits(project: Project) -> int:
    return len(list(Path(project.lake, "candidates", "_delta_log").glob("*.json")))


def rows(spark: SparkSession, project: Project) -> list[tuple[str, str]]:
    found = open_round(spark, project).lake.read(lake.CANDIDATES).collect()
    return sorted((r["candidate_id"], r["text"]) for r in found)


def test_a_killed_generate_loses_nothing_and_doubles_nothing(spark: SparkSession, tmp_path: Path) -> None:
    write_log(tmp_path / "log.jsonl", [f"question {i}" for i in range(60)])
    slow = {"kind": "fake", "answers": ["select 1", "select 2", "dunno"], "width": 8, "delay_s": 0.1}
    project = fake_project(tmp_path, engine=slow)
    config = tmp_path / "project.yml"
    config.write_text(yaml.safe_dump(project.model_dump(mode="json", by_alias=True)))
    from taolake import stages

    stages.run(open_round(spark, project), "ingest")
    killed = start(config, "generate")
    deadline = time.monotonic() + 240
    while commits(project) < 3 and time.monotonic() < deadline:  # creation and two chunks
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    interrupted = rows(spark, project)
    assert open_round(spark, project).records()["generate"].state == "running"

    finish(start(config, "generate"))
    whole = rows(spark, project)
    assert open_round(spark, project).records()["generate"].state == "done"

    other = fake_project(tmp_path, lake=str(tmp_path / "other"), work=str(tmp_path / "other-work"))
    for name in ("ingest", "generate"):
        stages.run(open_round(spark, other), name)
    assert 0 < len(interrupted) < len(whole), "the kill came too early or too late to show anything"
    assert set(interrupted) < set(whole)
    assert whole == rows(spark, other)
