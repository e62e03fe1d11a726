"""`taolake status` from another terminal, while a run is going and after it was killed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from pyspark.sql import SparkSession

from taolake import stages
from tests.projects import fake_project, open_round, write_log

LINE = re.compile(
    r"generate \w{8}: (\d+) of (\d+) cells \(\d+%\), [\d,]+ tokens/s, [\d.]+ cells/s, (\d+) errors, .* so far"
)


def taolake(*words: str) -> list[str]:
    return [sys.executable, "-m", "taolake", *words]


@pytest.mark.slow  # four processes of its own; what --live prints is in test_live
def test_status_shows_a_run_of_another_process(spark: SparkSession, tmp_path: Path) -> None:
    write_log(tmp_path / "log.jsonl", [f"question {i}" for i in range(60)])
    slow = {"kind": "fake", "answers": ["select 1"], "width": 4, "delay_s": 0.2, "poison": "question 1"}
    project = fake_project(tmp_path, engine=slow)
    config = tmp_path / "project.yml"
    config.write_text(yaml.safe_dump(project.model_dump(mode="json", by_alias=True)))
    stages.run(open_round(spark, project), "ingest")

    def status() -> tuple[str, float]:
        began = time.monotonic()
        done = subprocess.run(taolake("status", str(config), "--live"), capture_output=True, text=True, check=True)
        return done.stdout.strip(), time.monotonic() - began

    assert status()[0] == f"Nothing is being generated below {project.work}."
    run = subprocess.Popen(
        taolake("stage", "generate", str(config)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        seen, deadline = [], time.monotonic() + 180
        while len(seen) < 2 and time.monotonic() < deadline:
            assert run.poll() is None, "the run ended before anything was seen of it"
            said, seconds = status()
            found = LINE.match(said)
            if found and int(found[1]) > (seen[-1] if seen else 0):
                assert seconds < 10, "status --live starts no Spark"
                seen.append(int(found[1]))
                total = int(found[2])
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    assert len(seen) == 2
    assert 0 < seen[0] < seen[1] < total
    assert LINE.match(status()[0]), "what a killed run had done stays to be seen"
    table = subprocess.run(taolake("status", str(config)), capture_output=True, text=True, check=True).stdout
    assert LINE.match(table)
    assert re.search(r"generate\W+running", table)
