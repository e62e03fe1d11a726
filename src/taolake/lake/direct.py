"""Rows into a local lake without Spark, by delta-rs: for a server that answers meanwhile, and for single rows.

Not for what a stage makes, and not for catalogs. Spark reads what is written here and the other way round.
What a server writes is only ever added, so that a stream which reads the table sees each row.
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


_RACES = 20  # writers that may be quicker than this one, one after the other, before it gives up


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
