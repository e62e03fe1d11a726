"""What several tests share: one Spark session, since starting one costs more than most tests; and their order."""

from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession

from taolake.session import local_session

# By the time they take: two workers that begin with the long files end together.
LONG = ("round", "faults", "ledger", "training", "ask", "trust", "judge", "rows", "stages", "ingest", "label", "brakes",
        "labelled", "across", "lineage", "curate", "algorithms", "reward_model", "collect", "canary")  # fmt: skip


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    # Tables here are a file or two: to ask each one's statistics which of them to leave out takes a tenth of a round.
    session = local_session("local[2]", {"spark.databricks.delta.stats.skipping": "false"})
    yield session
    session.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, unit tests last."""

    def rank(item: pytest.Item) -> tuple[bool, int]:
        name = item.path.stem.removeprefix("test_")
        unit = item.path.parent.name == "unit"
        return unit, LONG.index(name) if name in LONG and not unit else len(LONG)

    items.sort(key=rank)
