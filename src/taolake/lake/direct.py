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
    from deltalake import Schema as DeltaSchema

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


def put(location: str, table: Table, row: Mapping[str, Any]) -> None:
    """Upsert one row by key; where another writer was quicker, read the table anew and try again.

    Raises:
        ValueError: the location is a catalog.
    """
    from deltalake.exceptions import CommitFailedError

    same = " AND ".join(f"old.{column} = new.{column}" for column in table.key)
    source = _arrow(table, [row])
    for race in range(_RACES + 1):
        merging = _open(location, table).merge(source, same, source_alias="new", target_alias="old")
        try:
            merging.when_matched_update_all().when_not_matched_insert_all().execute()
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


def exists(location: str, table: Table) -> bool:
    """Whether the table was made; asking does not make it."""
    from deltalake import DeltaTable

    return bool(DeltaTable.is_deltatable(str(Path(location).resolve() / table.name)))


def version(location: str, table: Table) -> int:
    """Newest version number of a table."""
    return int(_open(location, table).version())


def make(location: str, table: Table, schema: "pa.Schema | DeltaSchema | None" = None) -> str:
    """Make the table with its comments where it is not there yet; two that do so at once make one. Returns its folder.

    Args:
        location: folder of the lake.
        table: what to make.
        schema: where somebody has it; `_schema` knows the types alone that are written here.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import CommitFailedError

    if "/" not in location and location.count(".") == 1:
        raise ValueError(f"got lake {location!r}, wanted a folder: without Spark only a local lake can be written")
    folder = str(Path(location).resolve() / table.name)
    if not DeltaTable.is_deltatable(folder):
        try:
            DeltaTable.create(
                folder,
                schema=_schema(table) if schema is None else schema,
                mode="ignore",
                name=table.name,
                description=table.comment,
                configuration=dict(PROPERTIES),
            )
        except CommitFailedError:  # another writer was quicker
            if not DeltaTable.is_deltatable(folder):
                raise
    return folder


def _open(location: str, table: Table) -> "DeltaTable":
    from deltalake import DeltaTable

    return DeltaTable(make(location, table))


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
