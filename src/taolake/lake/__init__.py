"""The tables, and the only package that names or opens one; as constants they stand in `taolake.lake.tables`.

Locally a table is a folder below the lake's; on Databricks it is `catalog.schema.name`. Four ways to write, all safe
to repeat: `append_once` (a chunk of new rows, at most once), `insert_new` (rows whose key is not there yet), `fold_in`
(rows that belong to a time, the better of two with one key), `merge` (upsert by key). Source of the idempotent append:
Delta's `txnAppId`/`txnVersion` writer options. Two ways to take away: `delete` ends rows in the newest version, `purge`
(`taolake.lake.purge`) ends all older versions.
"""

import random
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taolake.ids import content_hash
from taolake.lake import direct
from taolake.lake.tables import (
    ANSWER_SCORES,
    ASKED,
    CANDIDATES,
    EPOCHS,
    ERASURES,
    EVALUATIONS,
    FEEDBACK,
    INFERENCE_LOG,
    JUDGEMENTS,
    MONITORS,
    PAYLOADS,
    PREFERENCES,
    PROMPTS,
    QUARANTINE,
    REACTIONS,
    RELEASES,
    REWARDS,
    ROUNDS,
    SCORES,
    SELECTIONS,
    TABLES,
    Table,
    maps,
    quoted,
)

if TYPE_CHECKING:
    from delta.tables import DeltaMergeBuilder, DeltaTable
    from pyspark.sql import DataFrame, SparkSession

__all__ = [
    "ANSWER_SCORES",
    "ASKED",
    "CANDIDATES",
    "EPOCHS",
    "ERASURES",
    "EVALUATIONS",
    "FEEDBACK",
    "INFERENCE_LOG",
    "JUDGEMENTS",
    "MONITORS",
    "PAYLOADS",
    "PREFERENCES",
    "PROMPTS",
    "QUARANTINE",
    "REACTIONS",
    "RELEASES",
    "REWARDS",
    "ROUNDS",
    "SCORES",
    "SELECTIONS",
    "TABLES",
    "Lake",
    "Table",
    "quoted",
]
_RACES = 20  # writers that may be quicker than this one, one after the other, before it gives up


class Lake:
    """Delta tables below one folder, or in one `catalog.schema`.

    Args:
        spark: the session, or what gives one when a table cannot be read without; this class never creates one.
        location: a folder, or `catalog.schema` for tables in a catalog.
        versions: of tables by name; a lake that has some reads those versions, and cannot be written.
    """

    def __init__(
        self,
        spark: "SparkSession | Callable[[], SparkSession]",
        location: str,
        versions: Mapping[str, int] | None = None,
    ) -> None:
        self._spark = spark
        self._versions = versions or {}
        self.in_catalog = "/" not in location and location.count(".") == 1
        self.location = location if self.in_catalog else str(Path(location).resolve())
        self._known: set[str] = set()

    @property
    def spark(self) -> "SparkSession":
        """The session; asking for it may start it."""
        return self._spark() if callable(self._spark) else self._spark

    def read(self, table: Table, version: int | None = None) -> "DataFrame":
        """Read a table, as of a version if one is given; a table never written is empty."""
        self._ensure(table)
        version = self._versions.get(table.name) if version is None else version
        reader = self.spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        return reader.table(self.name(table)) if self.in_catalog else reader.load(self.name(table))

    def as_of(self, versions: Mapping[str, int]) -> "Lake":
        """The same tables as they were, to read; tables that are not named are read as they are."""
        return Lake(self._spark, self.location, versions)

    def exists(self, table: Table) -> bool:
        """Whether the table was ever written or made; asking does not make it."""
        if table.name in self._known:
            return True
        if self.in_catalog:
            return bool(self.spark.catalog.tableExists(self.name(table)))
        return direct.exists(self.location, table)

    def stream(self, table: Table) -> "DataFrame":
        """Rows as they are appended, for Structured Streaming; rows deleted or changed later are not sent again."""
        self._ensure(table)
        reader = self.spark.readStream.format("delta").option("skipChangeCommits", "true")
        return reader.table(self.name(table)) if self.in_catalog else reader.load(self.name(table))

    def append_once(self, table: Table, rows: "DataFrame", chunk: str) -> None:
        """Append a chunk unless a chunk of this id was committed before.

        The id must be a hash of the keys in the chunk (`content_id`): Delta then drops a repetition silently and can
        never mistake other rows for it.
        """
        self._ensure(table)
        writer = self._conform(table, rows).write.format("delta").mode("append")
        writer = writer.option("txnAppId", f"taolake/{table.name}/{chunk}").option("txnVersion", "1")
        writer = writer.option("mergeSchema", "true")  # a table of an older release gets the columns it lacks
        if self.in_catalog:
            writer.saveAsTable(self.name(table))
        else:
            writer.save(self.name(table))

    def insert_new(self, table: Table, rows: "DataFrame") -> None:
        """Insert the rows whose key is not in the table; the others are left as they are."""
        self._merge(table, rows, lambda merge: merge.whenNotMatchedInsertAll())

    def merge(self, table: Table, rows: "DataFrame") -> None:
        """Upsert by key; a row that already says the same is not rewritten."""
        others = [c for c in table.schema().names if c not in table.key]
        changed = " OR ".join(f"NOT (old.{c} <=> new.{c})" for c in others if c not in maps(table))
        condition = changed or "false"
        self._merge(table, rows, lambda m: m.whenMatchedUpdateAll(condition=condition).whenNotMatchedInsertAll())

    def put(self, table: Table, row: Mapping[str, Any]) -> None:
        """Upsert one row by key. Where Spark is not needed it is not asked: its merge of one row takes 1.3 s here."""
        self._writable(table)
        self._ensure(table)
        if self.in_catalog:
            self.merge(table, self.spark.createDataFrame([row], table.schema()))
        else:
            direct.put(self.location, table, row)

    def rows(self, table: Table, **equal: str | int) -> list[dict[str, Any]]:
        """The few rows whose columns have these values."""
        self._ensure(table)
        if not self.in_catalog and table.name not in self._versions:
            return direct.read(self.location, table, **equal)
        from pyspark.sql import functions as f

        found = self.read(table)
        for name, value in equal.items():
            found = found.where(f.col(name) == value)
        return [row.asDict() for row in found.collect()]

    def delete(self, table: Table, keys: "DataFrame") -> None:
        """Delete the rows whose values in the columns of `keys` are among its rows, which must be distinct.

        By a merge: a `DELETE ... WHERE id IN (...)` would write into the log the very ids that are to be forgotten.
        """
        self._writable(table)
        same = " AND ".join(f"old.{column} <=> new.{column}" for column in keys.columns)
        self._commit(lambda: self._delta(table).alias("old").merge(keys.alias("new"), same).whenMatchedDelete())

    def fold_in(self, table: Table, rows: "DataFrame", better: str, near: str) -> None:
        """Insert the rows whose key is new; one whose key is known replaces the old row where it is better.

        Args:
            table: the table.
            rows: its rows, each key once.
            better: SQL of `old` and `new`.
            near: a timestamp; rows of one key must have it within a day of each other. Older and newer files are not
                read, so the cost grows with the rows given and not with the table.
        """
        from pyspark.sql import functions as f

        ends = [(end(near) + f.expr(f"INTERVAL {day} DAY")).cast("string") for end, day in ((f.min, -1), (f.max, 1))]
        rows = rows.persist()  # looked at for its ends, and twice by the merge
        try:
            low, high = rows.agg(*ends).collect()[0]
            known = f"old.{near} BETWEEN TIMESTAMP '{low}' AND TIMESTAMP '{high}' OR " if low is not None else ""
            self._merge(
                table,
                rows,
                lambda merge: merge.whenMatchedUpdateAll(condition=better).whenNotMatchedInsertAll(),
                f" AND ({known}old.{near} IS NULL)",
            )
        finally:
            rows.unpersist()

    def version(self, table: Table) -> int:
        """Newest version number of a table; one never written is at 0, and is not made by being asked."""
        if not self.exists(table):
            return 0
        if not self.in_catalog:
            return direct.version(self.location, table)
        return int(self._delta(table).history(1).select("version").first()["version"])

    def content_id(self, rows: "DataFrame", *columns: str) -> str:
        """Hash a set of rows by their values, in any order and without bringing them to the driver; 128 bits.

        Two rows with equal values would cancel out: the columns given must be a key.
        """
        return self.counted(rows, *columns)[0]

    def counted(self, rows: "DataFrame", *columns: str) -> tuple[str, int]:
        """As `content_id`, and how many rows they are, in one pass."""
        from pyspark.sql import functions as f

        halves = [f.bit_xor(f.xxhash64(f.lit(salt), *columns)) for salt in ("a", "b")]
        first, second, count = rows.agg(*halves, f.count(f.lit(1))).collect()[0]
        return content_hash(first, second, count), count

    def query(self, text: str) -> "DataFrame":
        """Run SQL in which our tables stand by their bare names after FROM, as in a dashboard."""
        ours = {table.name: table for table in TABLES}
        named: dict[str, Any] = {
            name: self.read(ours[name]) for name in re.findall(r"\bFROM (\w+)", text) if name in ours
        }
        return self.spark.sql(re.sub(rf"\bFROM ({'|'.join(ours)})\b", r"FROM {\1}", text), **named)

    def execute(self, statements: Iterable[str]) -> None:
        """Run SQL that only a catalog understands; each statement must be safe to repeat (`taolake.unity`)."""
        for statement in statements:
            self.spark.sql(statement)

    def _merge(
        self,
        table: Table,
        rows: "DataFrame",
        clauses: "Callable[[DeltaMergeBuilder], DeltaMergeBuilder]",
        among: str = "",
    ) -> None:
        """Merge by key."""

        def merge() -> "DeltaMergeBuilder":
            source = self._conform(table, rows).alias("new")
            return clauses(self._delta(table).alias("old").merge(source, _same_key(table) + among))

        self._commit(merge)

    def _commit(self, merge: "Callable[[], DeltaMergeBuilder]") -> None:
        """Execute a merge; where another writer was quicker, read the table anew and try again."""
        from delta.exceptions import (
            ConcurrentAppendException,
            ConcurrentDeleteDeleteException,
            ConcurrentDeleteReadException,
            ConcurrentTransactionException,
        )

        lost = (
            ConcurrentAppendException,
            ConcurrentDeleteDeleteException,
            ConcurrentDeleteReadException,
            ConcurrentTransactionException,
        )
        for race in range(_RACES + 1):
            try:
                merge().execute()
                return
            except lost:
                if race == _RACES:
                    raise
                time.sleep(random.uniform(0.05, 0.5))

    def _delta(self, table: Table) -> "DeltaTable":
        from delta.tables import DeltaTable

        self._ensure(table)
        if self.in_catalog:
            return DeltaTable.forName(self.spark, self.name(table))
        return DeltaTable.forPath(self.spark, self.name(table))

    def name(self, table: Table) -> str:
        """Three-level name, or folder."""
        return f"{self.location}.{table.name}" if self.in_catalog else f"{self.location}/{table.name}"

    def _ensure(self, table: Table) -> None:
        """Create the table with its comments on first use; asked once a session."""
        if table.name in self._known:
            return
        if self.in_catalog:
            self.spark.sql(table.create(self.name(table), keyed=False))
        elif not self.exists(table):  # by delta-rs: Spark takes 0.7 s for it, and two that make a table at once collide
            from deltalake import Schema

            _ = self.spark  # which alone knows how columns are read
            direct.make(self.location, table, Schema.from_json(table.schema().json()))
        self._known.add(table.name)

    def _writable(self, table: Table) -> None:
        if self._versions:
            raise ValueError(f"table {table.name!r}: a lake as of older versions is for reading alone")

    def _conform(self, table: Table, rows: "DataFrame") -> "DataFrame":
        """Bring columns into the table's order and types; a missing or extra column is an error of the stage."""
        self._writable(table)
        wanted, got = table.schema().names, rows.columns
        if set(wanted) != set(got):
            missing, extra = sorted(set(wanted) - set(got)), sorted(set(got) - set(wanted))
            raise ValueError(f"rows for table {table.name!r}: missing columns {missing}, unknown columns {extra}")
        from pyspark.sql import functions as f

        return rows.select([f.col(field.name).cast(field.dataType).alias(field.name) for field in table.schema()])


def _same_key(table: Table) -> str:
    return " AND ".join(f"old.{column} <=> new.{column}" for column in table.key)
