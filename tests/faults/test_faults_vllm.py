"""The same with real vLLM: three moments of every kind. Progress is read from the journal's logs."""

import random
import shutil
import time
from pathlib import Path

import pytest
import yaml
from pyspark.sql import SparkSession

from taolake import lake, stages
from taolake.config import Project
from tests.e2e import tiny
from tests.faults.killing import LIMIT_S, Run
from tests.faults.test_faults import CLUSTER, SEED
from tests.projects import open_round

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ingested(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny.write_inputs(folder)
    stages.run(open_round(spark, project(folder, folder)), "ingest")
    return folder


def project(ingested: Path, folder: Path) -> Project:
    places = {"lake": str(folder / "lake"), "work": str(folder / "work")}
    engine = {"kind": "vllm", "max_num_seqs": 8, "memory_gb": 1, "journal_s": 0.5}
    generate = {"n": 32, "review_n": 8, "chunk_rows": 512, "strategies": [{"name": "plain", "share": 1}]}
    return Project.model_validate(tiny.project(ingested) | places | {"engine": engine, "generate": generate})


def until_answered(run: Run, work: Path, answers: int) -> None:
    """Wait for so many answers in the logs of one chunk, or for the next chunk's."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        assert run.process.poll() is None, run.said()
        logs = [log.read_text().count("\n-") for log in work.glob("journal/*/*/*/log-*") if log.exists()]
        if max(logs, default=0) >= answers:
            return
        time.sleep(0.01)
    raise AssertionError(run.said())


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("kind", ["worker", "executor", "driver", "answer"])
def test_a_random_moment_of_a_real_engine(
    spark: SparkSession, ingested: Path, tmp_path: Path, kind: str, number: int
) -> None:
    shutil.copytree(ingested, tmp_path, dirs_exist_ok=True)
    mine = project(ingested, tmp_path)
    (tmp_path / "p.yml").write_text(yaml.safe_dump(mine.model_dump(mode="json", by_alias=True)))
    moment = random.Random(f"{SEED} vllm {kind} {number}").randrange(1, 200)
    print(f"seed {SEED}: {kind} at answer {moment}")
    # The answer to the first, second or third commit is lost; the others end in the middle of a chunk.
    module = ("tests.faults.lost_answer", str(number + 1)) if kind == "answer" else ("taolake",)
    with Run(tmp_path / "p.yml", tmp_path / "said", CLUSTER if kind == "executor" else "local[2]", module) as run:
        if kind != "answer":
            until_answered(run, tmp_path / "work", moment)
        match kind:
            case "worker":
                run.kill_largest_worker()
            case "executor":
                run.kill_executor()
            case "driver":
                run.kill_driver()
            case "answer":
                assert run.end() != 0, "the fault was never met"
                assert "the answer to a commit was lost" in run.said()
        if kind in ("worker", "executor"):
            run.finish()
        assert run.left() == []
    if kind in ("driver", "answer"):
        with Run(tmp_path / "p.yml", tmp_path / "said") as again:
            again.finish()
            assert again.left() == []
    round_ = open_round(spark, mine)
    splits = {r["split"]: r["count"] for r in round_.lake.read(lake.PROMPTS).groupBy("split").count().collect()}
    wanted = splits["train"] * 32 + splits["review"] * 8 + splits["holdout"] * (1 + mine.evaluate.samples)
    rows = round_.lake.read(lake.CANDIDATES).select("candidate_id", "status").collect()
    assert len({r["candidate_id"] for r in rows}) == len(rows) == wanted
    assert {r["status"] for r in rows} == {"ok"}
