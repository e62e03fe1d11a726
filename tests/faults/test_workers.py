"""What Spark does with Python workers, as far as engines depend on it: who is taken again, and when one is closed."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from taolake import engines
from taolake.config import FakeEngine, Model
from taolake.engines import placement, window
from taolake.lake import Lake
from taolake.stages.fanout import Row, map_rows
from taolake.stages.round import Round
from taolake.types import Policy, Request, Sampling
from tests.projects import fake_project

_COLUMNS = "pid INT, engine BIGINT"


def with_engine(rows: Iterator[Row], wait_s: float = 0.0) -> Iterator[Row]:
    """Run on an engine; says which process, and which engine, that was."""
    spec = FakeEngine(kind="fake")
    with placement.device(spec):
        engine = engines.build(spec, Model(path="m"), Policy("p", "m"))
        time.sleep(wait_s)
        yield from ({"pid": os.getpid(), "engine": id(engine)} for _ in rows)


def without_engine(rows: Iterator[Row]) -> Iterator[Row]:
    """A stage of two tasks at once that needs none."""
    time.sleep(0.5)
    yield from ({"pid": os.getpid(), "engine": 0} for _ in rows)


def seen(frame: Any) -> set[tuple[int, int]]:
    return {(r["pid"], r["engine"]) for r in frame.collect()}


def test_an_engine_outlives_stages_that_use_more_workers(spark: SparkSession, tmp_path: Path) -> None:
    """Idle workers are a queue, oldest first: without a pool of its own the engine would be behind the others."""
    round_ = Round(Lake(spark, str(tmp_path / "lake")), fake_project(tmp_path))
    one, two = spark.range(1).repartition(1), spark.range(2).repartition(2)
    found = []
    for _ in range(4):
        with round_.engine_workers():
            mapped = map_rows(one, _COLUMNS, with_engine)
        found.append(seen(mapped))
        seen(map_rows(two, _COLUMNS, without_engine))
    assert len(set().union(*found)) == 1


def test_in_one_pool_the_idle_engine_is_given_up_for_a_new_one(spark: SparkSession) -> None:
    """The trap itself: never two engines on the device, whatever worker Spark takes."""
    one, two = spark.range(1).repartition(1), spark.range(2).repartition(2)
    pids = []
    for _ in range(3):
        ((pid, _engine),) = seen(map_rows(one, _COLUMNS, with_engine))
        pids.append(pid)
        seen(map_rows(two, _COLUMNS, without_engine))
    alive = [pid for pid in set(pids) if Path(f"/proc/{pid}").exists()]
    assert pids[-1] in alive
    assert len(alive) == 1, "an engine that lost its device has ended"


def test_two_tasks_at_once_take_turns_on_one_device(spark: SparkSession) -> None:
    two = spark.range(2).repartition(2)
    began = time.monotonic()
    found = seen(map_rows(two, _COLUMNS, lambda rows: with_engine(rows, 0.7)))
    assert found
    assert time.monotonic() - began > 1.4


def test_a_host_stays_with_its_device_when_workers_come_and_go(spark: SparkSession, tmp_path: Path) -> None:
    """As on an executor with several GPUs: every job has other workers, and each device keeps its engine."""
    spec = FakeEngine(kind="fake", host=True, devices=2, diary=str(tmp_path / "diary"))

    def ask(rows: Iterator[Row]) -> Iterator[Row]:
        with engines.hold(spec, Model(path="m"), Policy("p", "m")) as engine:
            asked = ({"role": "user", "content": "question"},)
            requests = [Request(str(row["id"]), asked, Sampling(8), row["id"]) for row in rows]
            yield from ({"pid": os.getpid(), "engine": int(done.key)} for done in window.run(engine, requests))

    workers: set[int] = set()
    for _ in range(2):
        found = map_rows(spark.range(8, numPartitions=2), _COLUMNS, ask).collect()
        assert sorted(row["engine"] for row in found) == list(range(8))
        now = {row["pid"] for row in found}
        assert not now & workers
        workers |= now
        for pid in now:
            with contextlib.suppress(ProcessLookupError):  # Spark has closed it
                os.kill(pid, signal.SIGKILL)
    hosts = {line.split()[0] for line in (tmp_path / "diary").read_text().splitlines()}
    assert len(hosts) == 2
    assert not hosts & {str(pid) for pid in workers}


@pytest.mark.slow
@pytest.mark.parametrize(("pause_s", "kept"), [(40, True), (90, False)])
def test_an_idle_worker_is_closed_after_a_minute(spark: SparkSession, tmp_path: Path, pause_s: int, kept: bool) -> None:
    """Not configurable in Spark 4.2: two uses of an engine that lie further apart load it twice."""
    round_ = Round(Lake(spark, str(tmp_path / "lake")), fake_project(tmp_path))
    found = []
    for pause in (pause_s, 0):
        with round_.engine_workers():
            mapped = map_rows(spark.range(1).repartition(1), _COLUMNS, with_engine)
        found.append(seen(mapped))
        time.sleep(pause)
    assert (found[0] == found[1]) is kept


def test_resource_profiles_are_refused_in_local_mode(spark: SparkSession, caplog: pytest.LogCaptureFixture) -> None:
    assert placement.profile(spark, gpus=1) is None
    assert "no resource profile" in caplog.text
    assert "\n\tat " not in caplog.text
