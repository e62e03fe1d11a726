"""Training handed over to a machine without Spark, as the bundle's variant does it: two processes, and one result."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pyspark.sql import SparkSession

from taolake import stages
from tests.bundle.resolve import ROOT, read
from tests.notebook import run_notebook


@pytest.mark.slow  # a round until select, and a training in two processes
def test_what_is_handed_over_is_trained_without_spark_and_found_done(spark: SparkSession, tmp_path: Path) -> None:
    file, work = tmp_path / "smoke.yml", tmp_path / "work"
    file.write_text(yaml.safe_dump(read(ROOT / "conf" / "smoke.yml") | {"lake": str(tmp_path / "lake")}))
    params = {
        "config": str(file), "work": str(work), "prompts": str(tmp_path / "log.jsonl"),
        "model": str(tmp_path / "model"), "processes": "2",
    }  # fmt: skip
    before = [stage.name for stage in stages.STAGES[: [s.name for s in stages.STAGES].index("train")]]
    for number, name in enumerate(before, start=1):
        run_notebook(f"{number:02d}_{name}", spark, params)
    folder = Path(json.loads(run_notebook("13_hand_over", spark, params).exited or "")["folder"])
    assert sorted(path.name for path in folder.iterdir()) == ["job.json", "selection.parquet"]

    command = [sys.executable, "-m", "taolake.training.elsewhere", str(work)]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_WAIT_POLICY": "PASSIVE"}
    trained = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert (folder / "result.json").is_file() and (folder / "adapter").is_dir()
    written = (folder / "result.json").stat().st_mtime_ns

    done = json.loads(run_notebook("08_train", spark, params).exited or "")
    assert Path(done["adapter"]) == folder / "adapter"
    assert done["metrics"]["steps"] > 0
    assert not (folder / "train.log").exists(), "nothing was trained here"
    assert subprocess.run(command, env=env, check=False).returncode == 0
    assert (folder / "result.json").stat().st_mtime_ns == written
