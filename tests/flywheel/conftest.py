"""A planted round, made once for the tests that only look at it."""

import pytest
from pyspark.sql import SparkSession

from taolake.stages.round import Round
from tests.flywheel.planted import build


@pytest.fixture(scope="session")
def planted(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Round:
    return build(spark, tmp_path_factory.mktemp("planted"))
