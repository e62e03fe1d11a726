"""The local Spark session: the only place in the package that creates one.

On Databricks the notebook's `spark` is passed in instead; nothing here runs there.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taolake.preflight import require_java

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CONF = {
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "2",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "256",
    # A worker holds an engine; a copy of its task elsewhere would only pay for the same tokens twice.
    "spark.speculation": "false",
    # A task that dies is retried with what its journal holds; a prompt that kills engines is found in three deaths.
    "spark.task.maxFailures": "8",
    "spark.driver.memory": "2g",
    "spark.sql.session.timeZone": "UTC",
    "spark.log.level": "ERROR",
    # Jobs here are short: the first compiler tier warms up in a fraction of the time on two cores. That tier alone gets
    # 48 MiB of code cache, which Spark fills within a minute; the JVM would then interpret everything that follows.
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m -XX:+UseSerialGC",
    "spark.ui.showConsoleProgress": "false",
    # Planning and compiling cost more than these queries themselves: a fake round up to select took 57 s without both,
    # 79 s with them (2 cores, new process). The work that counts happens in Python workers either way.
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}


def local_session(
    master: str = "local[2]", extra: dict[str, str] | None = None, log: Path | None = None
) -> "SparkSession":
    """Start or get a Spark session with Delta, its driver on this machine.

    Args:
        master: Spark master URL; a cluster's executors must see the project's folders under the same paths.
        extra: further Spark settings.
        log: file for what the JVM and the Python workers write to standard error; None leaves it on the terminal.

    Raises:
        RuntimeError: there is no Java 17 or newer.
    """
    from delta import configure_spark_with_delta_pip
    from pyspark.sql import SparkSession

    require_java()
    if master.startswith("local"):  # a cluster's executors may have to reach the driver from elsewhere
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # the workers need this environment, not the first python3
    settings = {**CONF, **(extra or {})}
    # `local[n]` gives a job up at a task's first failure, whatever spark.task.maxFailures says; `local[n,f]` does not.
    master = re.sub(r"^local\[(\*|\d+)\]$", rf"local[\1,{settings['spark.task.maxFailures']}]", master)
    builder: Any = SparkSession.builder.master(master).appName("taolake")
    builder = builder.config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
    builder = builder.config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
    for key, value in settings.items():
        builder = builder.config(key, value)
    with _standard_error_to(log):
        spark: SparkSession = configure_spark_with_delta_pip(builder).getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


@contextlib.contextmanager
def _standard_error_to(log: Path | None) -> Iterator[None]:
    """Processes started inside write their standard error to a file; this process keeps its own."""
    if log is None:
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = os.dup(2)
    try:
        with log.open("ab") as handle:
            os.dup2(handle.fileno(), 2)
        yield
    except Exception as error:  # whatever it was, the reason stands in the log alone
        tail = log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"Spark did not start ({error}); the end of {log}:\n{tail}") from error
    finally:
        os.dup2(kept, 2)
        os.close(kept)
