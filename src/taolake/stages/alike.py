"""Near-duplicates among any number of texts, by MinHash and buckets on Spark: which texts hang together.

Work grows with the texts: each gives a number for each band, sorted by Spark, and is held against at most 3 neighbours
in each of these buckets. What hangs together is found on the driver from the pairs alone, 16 bytes a pair. Not here:
the arithmetic (`taolake.curation.alike`), splits (`curate`).
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from taolake.curation import alike

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

    Batches = Iterator[pa.RecordBatch]


def clusters(texts: "DataFrame", similarity: float, ties: "DataFrame | None" = None) -> "DataFrame":
    """Clusters of texts that are alike, directly or by others between them.

    Args:
        texts: `id` BIGINT, `text`.
        similarity: share of common shingles from which two texts are alike.
        ties: further pairs (`a`, `b`) of ids that belong together.

    Returns:
        `id`, `cluster` (the smallest id in it), for texts that are not alone.
    """
    found = pairs(texts, similarity).select("a", "b")
    edges = (found.union(ties.select("a", "b")) if ties is not None else found).toArrow()
    of = alike.connected(np.stack([edges["a"].to_numpy(), edges["b"].to_numpy()], axis=1))
    import pandas as pd

    frame = pd.DataFrame({"id": list(of), "cluster": list(of.values())}, dtype="int64")
    return texts.sparkSession.createDataFrame(frame, "id BIGINT, cluster BIGINT")


def pairs(texts: "DataFrame", similarity: float) -> "DataFrame":
    """Pairs of texts at least so similar (`a` < `b`, `similarity`), of those that the buckets bring together."""
    from pyspark.sql import functions as f

    near = candidates(texts, similarity)
    both = near.join(texts.select(f.col("id").alias("a"), f.col("text").alias("one")), "a")
    both = both.join(texts.select(f.col("id").alias("b"), f.col("text").alias("other")), "b")
    return both.mapInArrow(_measure(similarity), "a BIGINT, b BIGINT, similarity DOUBLE")


def candidates(texts: "DataFrame", similarity: float) -> "DataFrame":
    """Pairs (`a` < `b`) that stand near each other in some bucket, each once."""
    sorted_ = texts.mapInArrow(_bucketed(alike.rows(similarity)), "bucket BIGINT, id BIGINT").repartition("bucket")
    near = sorted_.sortWithinPartitions("bucket", "id").mapInArrow(_adjacent, "a BIGINT, b BIGINT")
    return near.distinct()


def _bucketed(rows: int) -> "Callable[[Batches], Batches]":
    """A row for each band of each text: the bucket it stands in."""

    def bucketed(batches: "Batches") -> "Batches":
        import pyarrow as pa

        for batch in batches:
            if not batch.num_rows:
                continue
            found = np.concatenate([alike.bands(text or "", rows) for text in batch["text"].to_pylist()])
            members = np.repeat(batch["id"].to_numpy(), found.size // batch.num_rows)
            yield pa.RecordBatch.from_arrays([pa.array(found), pa.array(members)], names=["bucket", "id"])

    return bucketed


def _adjacent(batches: "Batches") -> "Batches":
    """Pairs of neighbours; the last rows of a batch are looked at again with the next."""
    import pyarrow as pa

    buckets = members = np.empty(0, np.int64)
    for batch in batches:
        buckets = np.concatenate([buckets, batch["bucket"].to_numpy()])
        members = np.concatenate([members, batch["id"].to_numpy()])
        one, other = alike.neighbours(buckets, members)
        fresh = one != other
        if fresh.any():
            yield pa.RecordBatch.from_arrays([pa.array(one[fresh]), pa.array(other[fresh])], names=["a", "b"])
        buckets, members = buckets[-alike.NEIGHBOURS :], members[-alike.NEIGHBOURS :]


def _measure(least: float) -> "Callable[[Batches], Batches]":
    def measured(batches: "Batches") -> "Batches":
        import pyarrow as pa

        for batch in batches:
            ones, others = batch["one"].to_pylist(), batch["other"].to_pylist()
            found = np.array(
                [
                    alike.similarity(alike.shingles(a or ""), alike.shingles(b or ""))
                    for a, b in zip(ones, others, strict=True)
                ]
            )
            alike_ = found >= least
            columns = [pa.array(batch[name].to_numpy()[alike_]) for name in ("a", "b")]
            yield pa.RecordBatch.from_arrays([*columns, pa.array(found[alike_])], names=["a", "b", "similarity"])

    return measured
