"""Purging a table: nothing but its newest version is left, in the data, in the log, and in the log's statistics.

Deleting a row ends it in the newest version alone. Older versions keep its file until a vacuum, and Delta's log keeps
the smallest and largest values of every file it ever named: a name or a question can stand there in clear. Not safe
while something else writes the table, since a vacuum without a delay also takes files that are not committed yet; and
no older version can be read afterwards.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taolake.lake import Lake
from taolake.lake.tables import Table

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_LOG = "_delta_log"
_NUMBERED = re.compile(r"^\.?(\d{20})\.")  # also Hadoop's hidden checksum beside a file
# Listing a folder asks for as many tasks as this allows, 10,000 by default: minutes on two cores for one small table.
_CONF = {
    "spark.databricks.delta.retentionDurationCheck.enabled": "false",
    "spark.databricks.delta.vacuum.logging.enabled": "false",  # two commits a table; `erasures` says it was done
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "2",
}


def purge(lake: Lake, table: Table) -> int:
    """Leave nothing but the newest version of a table; returns its number, the oldest that can be read from now on.

    May be killed anywhere and started again.
    """
    if lake.in_catalog:
        lake.execute(statements(lake.name(table)))
        return lake.version(table)
    folder = Path(lake.name(table))
    with _settings(lake.spark, _CONF):
        lake.execute([f"VACUUM delta.`{folder}` RETAIN 0 HOURS"])
        version = _checkpoint(lake.spark, folder)
    _shorten(folder, version)
    return version


def statements(name: str) -> list[str]:
    """The same for a table of a catalog, which cleans its log itself when it is told to keep nothing.

    Data files go at once, log entries at the first checkpoint of another day (UTC), as Delta documents. So the log's
    retention is left at nothing: whoever wants older versions back from then on sets it again (docs/lineage.md).
    """
    kept = ("delta.deletedFileRetentionDuration", "delta.logRetentionDuration")
    none = ", ".join(f"'{key}' = 'interval 0 hours'" for key in kept)
    return [
        f"ALTER TABLE {name} SET TBLPROPERTIES ({none})",
        f"REORG TABLE {name} APPLY (PURGE)",  # rows that a deletion vector only hides are written out of the files
        f"VACUUM {name}",
        f"ALTER TABLE {name} UNSET TBLPROPERTIES IF EXISTS ('{kept[0]}')",
    ]


def floor(lake: Lake, table: Table) -> int:
    """Oldest version of a local table that its log can rebuild; 0 in a catalog, which is asked by reading."""
    if lake.in_catalog or not lake.exists(table):
        return 0
    log = Path(lake.name(table), _LOG)
    commits = {int(path.stem) for path in log.glob("*.json") if path.stem.isdigit()}
    made = {int(path.name[:20]) for path in log.glob("*.checkpoint*.parquet") if path.name[:20].isdigit()}
    return 0 if 0 in commits else min(made, default=0)


def _checkpoint(spark: "SparkSession", folder: Path) -> int:
    """Write the newest version into one file of the log; Delta has no call of Python or SQL for it."""
    jvm: Any = spark._jvm
    log = jvm.org.apache.spark.sql.delta.DeltaLog.forTable(spark._jsparkSession, str(folder))
    none = jvm.scala.Option.empty()
    snapshot = log.update(False, none, none)
    log.checkpoint(snapshot, none)
    return int(snapshot.version())


def _shorten(folder: Path, version: int) -> None:
    """Delete the log below a version that is whole in a checkpoint; its own commit stays, as a reader may list it."""
    log = folder / _LOG
    if not list(log.glob(f"{version:020d}.checkpoint*.parquet")):
        raise RuntimeError(f"no checkpoint of version {version} in {log}, wanted one before its log is cut; run again")
    for path in sorted(log.iterdir()):
        numbered = _NUMBERED.match(path.name)
        if numbered and int(numbered[1]) < version:
            path.unlink()
    for path in folder.rglob(".*.crc"):  # checksums of files that are gone
        if not path.with_name(path.name[1:].removesuffix(".crc")).exists():
            path.unlink()


@contextmanager
def _settings(spark: "SparkSession", settings: dict[str, str]) -> Iterator[None]:
    """Session settings for a while."""
    before = {key: spark.conf.get(key, None) for key in settings}
    for key, value in settings.items():
        spark.conf.set(key, value)
    try:
        yield
    finally:
        for key, known in before.items():
            spark.conf.unset(key) if known is None else spark.conf.set(key, known)
