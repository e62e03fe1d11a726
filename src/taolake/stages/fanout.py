"""Rows in, rows out, on executors: the one place where stages meet Arrow.

`mapInArrow` lets a function turn any number of rows into any number of others, in any order, without an answer having
to line up with its question; the function here sees plain dictionaries.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

Row = dict[str, Any]
_BATCH_ROWS = 128  # small, so that finished rows leave the worker while others are still in the engine


def map_rows(frame: "DataFrame", columns: str, function: Callable[[Iterator[Row]], Iterator[Row]]) -> "DataFrame":
    """Apply a function of all rows of a partition; `columns` is the DDL of what it yields.

    The function must not raise for one bad row: an exception ends the worker and the engine in it.
    """
    from pyspark.sql.pandas.types import to_arrow_schema
    from pyspark.sql.types import StructType

    schema = StructType.fromDDL(columns)
    assert isinstance(schema, StructType)  # what DDL of columns always is
    # Made here: an executor has no session to parse DDL with. Moments are UTC throughout.
    arrow = to_arrow_schema(schema, timezone="UTC")

    def run(batches: Iterator["pa.RecordBatch"]) -> Iterator["pa.RecordBatch"]:
        import pyarrow as pa

        ready: list[Row] = []
        for row in function(row for batch in batches for row in batch.to_pylist()):
            ready.append(row)
            if len(ready) == _BATCH_ROWS:
                yield pa.RecordBatch.from_pylist(ready, schema=arrow)
                ready = []
        if ready:
            yield pa.RecordBatch.from_pylist(ready, schema=arrow)

    return frame.mapInArrow(run, schema)
