"""What several tests share: one Spark session, since starting one costs more than most tests."""

from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession

from taolake.session import local_session


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    session = local_session("local[2]")
    yield session
    session.stop()
