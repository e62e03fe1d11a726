"""What several tests share: one Spark session, since starting one costs more than most tests; a round; their order."""

import os
from collections.abc import Iterator

import pytest
from filelock import FileLock
from pyspark.sql import SparkSession

from taolake import stages
from taolake.session import local_session
from taolake.stages.round import Round
from tests.projects import fake_project, open_round, write_log

# By the time they take: two workers that begin with the long files end together.
LONG = ("round", "faults", "ledger", "training", "ask", "trust", "judge", "rows", "stages", "ingest", "label", "brakes",
        "labelled", "across", "lineage", "curate", "algorithms", "reward_model", "collect", "canary")  # fmt: skip


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    # Tables here are a file or two: to ask each one's statistics which of them to leave out takes a tenth of a round.
    session = local_session("local[2]", {"spark.databricks.delta.stats.skipping": "false"})
    yield session
    session.stop()


@pytest.fixture(scope="session")
def fake_round(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Round:
    """A round on the fake engine up to `select`, to be looked at; `copied` makes one that may be changed.

    Whichever worker needs it first makes it; to the others its stages are done. One prompt's answers are errors.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "fake-round"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "log.jsonl").exists():
            write_log(folder / "log.jsonl", [f"question {i}" for i in range(24)])
        answers = ["select 1", "select 2", "select 2", "select 1;", "dunno", " "]
        engine = {"kind": "fake", "answers": answers, "poison": "question 7", "devices": 2}
        round_ = open_round(spark, fake_project(folder, engine=engine))
        for name in ("ingest", "generate", "label", "score", "reward", "trust", "select"):
            stages.run(round_, name)
    return round_


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, unit tests last."""

    def rank(item: pytest.Item) -> tuple[bool, int]:
        name = item.path.stem.removeprefix("test_")
        unit = item.path.parent.name == "unit"
        return unit, LONG.index(name) if name in LONG and not unit else len(LONG)

    items.sort(key=rank)
