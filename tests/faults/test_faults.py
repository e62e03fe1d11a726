"""Kill any process of a run at any moment: nothing missing, nothing twice, nothing left running, little paid again.

Moments are drawn from a seed, which is printed; `TAOLAKE_FAULT_SEED` repeats a schedule. A moment is a number of
answers that the engine has given, so it does not depend on the machine's speed.
"""

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyspark.sql import SparkSession

from taolake import stages
from taolake.config import Project
from tests.faults.killing import Run, lines, table
from tests.projects import fake_project, open_round, write_log

SEED = int(os.environ.get("TAOLAKE_FAULT_SEED") or random.SystemRandom().randrange(10**6))
QUESTIONS, WIDTH, DELAY_S, JOURNAL_S = 60, 8, 0.06, 0.4
INTERVAL_ROWS = WIDTH * JOURNAL_S / DELAY_S  # what one engine answers between two writings of the journal
ENGINE = {"kind": "fake", "answers": ["select 1", "select 2", "dunno"], "width": WIDTH, "delay_s": DELAY_S,
          "journal_s": JOURNAL_S, "child": True}  # fmt: skip
CLUSTER = "local-cluster[1,1,1024]"


@pytest.fixture(scope="module")
def ingested(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which prompts are ingested, to be copied."""
    folder = tmp_path_factory.mktemp("ingested")
    write_log(folder / "log.jsonl", [f"question {i}" for i in range(QUESTIONS)])
    stages.run(open_round(spark, fake_project(folder)), "ingest")
    return folder


@pytest.fixture(scope="module")
def expected(spark: SparkSession, ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """What a run that nothing disturbs writes."""
    world = World(spark, ingested, tmp_path_factory.mktemp("undisturbed"), delay_s=0.0)
    world.go_on()
    return world.rows()


def write_project(folder: Path, project: Project) -> None:
    (folder / "p.yml").write_text(yaml.safe_dump(project.model_dump(mode="json", by_alias=True)))


class World:
    """A copy of the ingested folder, and the project file that names it."""

    def __init__(self, spark: SparkSession, ingested: Path, folder: Path, **engine: Any) -> None:
        self._spark = spark
        shutil.copytree(ingested, folder, dirs_exist_ok=True)
        self.diary, self.config, self.log = folder / "diary", folder / "p.yml", folder / "said"
        # The same log at the same place: ingest is done for this project too.
        ingest = {"holdout": 0.3, "sources": [{"format": "jsonl", "path": str(ingested / "log.jsonl")}]}
        self.project = fake_project(folder, ingest=ingest, engine={**ENGINE, "diary": str(self.diary), **engine})
        write_project(folder, self.project)
        splits = [row["split"] for row in table(self.project.lake, "prompts")]
        self.cells = splits.count("train") * 6 + splits.count("holdout") * 5
        self.random = random.Random(f"{SEED} {folder.name}")

    def run(self, master: str = "local[2]", module: tuple[str, ...] = ("taolake",)) -> Run:
        return Run(self.config, self.log, master, module)

    def go_on(self) -> None:
        """What is left of the run, in this process: its session is there, a new one would take half a minute."""
        stages.run(open_round(self._spark, self.project), "generate")

    def moment(self) -> int:
        """Answers from now on until the kill: anywhere in what is still to be done."""
        done = len(lines(self.diary))
        return done + self.random.randrange(1, max(2, self.cells - done))

    def rows(self) -> list[tuple[str, str]]:
        return sorted((row["candidate_id"], row["text"]) for row in table(self.project.lake, "candidates"))

    def check(self, kills: int) -> None:
        """The gates."""
        found = table(self.project.lake, "candidates")
        ids = [row["candidate_id"] for row in found]
        made = len(lines(self.diary))
        limit = 1.02 * self.cells + kills * (INTERVAL_ROWS + WIDTH)
        print(f"seed {SEED}: {kills} kills, {self.cells} cells, {len(ids)} rows, {made} generated, limit {limit:.0f}")
        assert self.cells - len(set(ids)) == 0, "missing"
        assert len(ids) - len(set(ids)) == 0, "duplicates"
        assert {row["status"] for row in found} == {"ok"}
        assert made <= limit, "too much was generated again"


def one_worker_killed(world: World, moments: int) -> None:
    with world.run() as run:
        killed = 0
        for _ in range(moments):
            if run.until(world.diary, world.moment()):
                run.kill_worker(world.diary)
                killed += 1
        run.finish()
        assert killed, "the run was over before anything was killed"
        assert run.left() == []
    world.check(killed)


def the_executor_killed(world: World, moments: int) -> None:
    with world.run(CLUSTER) as run:
        assert run.until(world.diary, world.moment())
        run.kill_executor()
        run.finish()
        assert run.left() == []
    world.check(1)


def the_driver_killed(world: World, moments: int) -> None:
    with world.run() as run:
        assert run.until(world.diary, world.moment())
        run.kill_driver()
        assert run.left() == [], "engines or Spark outlived the driver"
    world.go_on()
    world.check(1)


def an_answer_lost(world: World, moments: int) -> None:
    number = world.random.randrange(1, 1 + -(-world.cells // world.project.generate.chunk_rows))
    with world.run(module=("tests.faults.lost_answer", str(number))) as run:
        assert run.end() != 0, "the fault was never met"
        assert "the answer to a commit was lost" in run.said()
        assert run.left() == []
    world.go_on()
    world.check(0)


FAULTS = [the_driver_killed, one_worker_killed, the_executor_killed, an_answer_lost]


# Slow for the others: a lost answer to a commit is also in tests/spark/test_ledger.py, a worker's end in test_workers.
@pytest.mark.parametrize("fault", [FAULTS[0], *(pytest.param(fault, marks=pytest.mark.slow) for fault in FAULTS[1:])])
def test_a_random_moment(
    spark: SparkSession, ingested: Path, tmp_path: Path, expected: list[tuple[str, str]], fault: Any
) -> None:
    world = World(spark, ingested, tmp_path)
    fault(world, 1)
    assert world.rows() == expected


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
@pytest.mark.parametrize("fault", FAULTS)
def test_twenty_random_moments(
    spark: SparkSession, ingested: Path, tmp_path: Path, expected: list[tuple[str, str]], fault: Any, number: int
) -> None:
    world = World(spark, ingested, tmp_path, devices=1 + number % 2 * (fault is one_worker_killed))
    fault(world, 2)
    assert world.rows() == expected
