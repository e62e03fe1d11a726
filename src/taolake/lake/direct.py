"""Rows into a local lake without Spark, by delta-rs: for a server that answers meanwhile, and for single rows.

Not for what a stage makes, and not for catalogs. Spark reads what is written here and the other way round.
Rows of a server are only ever added, so that a stream which reads the table sees each of them.
Source of the idempotent append: the transaction identifiers of Delta's protocol, the same that `Lake.append_once` uses.
"""

import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taolake.lake.tables import PROPERTIES, Table, maps

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

_VERSION = 1  # of a chunk's transaction: a chunk is committed once
_LATER = "new.{0} > old.{0}"
_RACES = 20  # writers that may be quicker than this one, one after the other, before it gives up
_COMPACT_EVERY = 200  # commits, each a small file: at one in five seconds a day would leave 17,000


def append_once(location: str, table: Table, rows: Sequence[Mapping[str, Any]], chunk: str) -> bool:
    """Append a chunk unless one of this id was committed before; returns whether it was appended now.

    One writer at a time: two that append the same chunk at the same moment are not told apart.

    Raises:
        ValueError: the location is a catalog.
    """
    from deltalake import CommitProperties, Transaction, write_deltalake

    opened, name = _open(location, table), f"taolake/{table.name}/{chunk}"
    if opened.transaction_version(name) is not None:
        return False
    once = CommitProperties(app_transactions=[Transaction(name, _VERSION)])
    write_deltalake(opened, _arrow(table, rows), mode="append", commit_properties=once)
    if opened.version() % _COMPACT_EVERY == 0:
        opened.optimize.compact()
    return True


def merge(location: str, table: Table, rows: Sequence[Mapping[str, Any]], newest: str | None = None) -> None:
    """Upsert by key.

    Args:
        location: the lake's folder.
        table: made on first use.
        rows: any order; a key may repeat where `newest` is given.
        newest: of two rows of one key the one stays whose value in this column is greater; None: the new one.

    Raises:
        ValueError: the location is a catalog.
    """
    from deltalake.exceptions import CommitFailedError

    last: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row[newest]) if newest else rows:
        last[tuple(row[column] for column in table.key)] = row
    same = " AND ".join(f"old.{column} = new.{column}" for column in table.key)
    source = _arrow(table, list(last.values()))
    for race in range(_RACES + 1):
        merging = _open(location, table).merge(source, same, source_alias="new", target_alias="old")
        merging = merging.when_matched_update_all(predicate=_LATER.format(newest) if newest else None)
        try:
            merging.when_not_matched_insert_all().execute()
            return
        except CommitFailedError:
            if race == _RACES:
                raise
            time.sleep(random.uniform(0.01, 0.1))


def read(location: str, table: Table, **equal: str | int) -> list[dict[str, Any]]:
    """Rows whose columns have these values, as Python values; a table never written has none.

    By delta-rs' own query engine: pyarrow's scanner leaves threads behind that end some processes with an abort.
    """
    import pyarrow as pa
    from deltalake import QueryBuilder

    where = " AND ".join(f"{name} = {_literal(value)}" for name, value in equal.items())
    engine = QueryBuilder().register(table.name, _open(location, table))
    found = engine.execute(f"SELECT * FROM {table.name} WHERE {where or 'true'}").read_all()
    return [
        {name: dict(value) if isinstance(value, list) and name in maps(table) else value for name, value in row.items()}
        for row in pa.table(found).to_pylist()
    ]


def version(location: str, table: Table) -> int:
    """Newest version number of a table."""
    return int(_open(location, table).version())


def _open(location: str, table: Table) -> "DeltaTable":
    """The table, made with its comments where it is not there yet."""
    from deltalake import DeltaTable

    if "/" not in location and location.count(".") == 1:
        raise ValueError(f"got lake {location!r}, wanted a folder: without Spark only a local lake can be written")
    folder = Path(location).resolve() / table.name
    if not DeltaTable.is_deltatable(str(folder)):
        DeltaTable.create(
            str(folder),
            schema=_schema(table),
            mode="ignore",
            name=table.name,
            description=table.comment,
            configuration=dict(PROPERTIES),
        )
    return DeltaTable(str(folder))


def _arrow(table: Table, rows: Sequence[Mapping[str, Any]]) -> "pa.Table":
    import pyarrow as pa

    keyed = maps(table)
    plain = [{name: list(v.items()) if name in keyed and v else v for name, v in row.items()} for row in rows]
    return pa.Table.from_pylist(plain, schema=_schema(table))


def _literal(value: str | int) -> str:
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def _schema(table: Table) -> "pa.Schema":
    """The columns as Arrow types, comments included."""
    import pyarrow as pa

    kinds = {
        "STRING": pa.string(),
        "INT": pa.int32(),
        "BIGINT": pa.int64(),
        "DOUBLE": pa.float64(),
        "DATE": pa.date32(),
        "TIMESTAMP": pa.timestamp("us", "UTC"),
        "ARRAY<STRING>": pa.list_(pa.string()),
        "MAP<STRING, BIGINT>": pa.map_(pa.string(), pa.int64()),
    }
    return pa.schema([pa.field(name, kinds[kind], metadata={"comment": said}) for name, kind, said in table.fields()])
