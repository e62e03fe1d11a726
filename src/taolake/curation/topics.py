"""Topics: k-means over embeddings of questions, fitted on a sample and asked for all. Plain arrays in and out."""

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
SAMPLE = 20_000  # questions that the centres are found from


def centres(vectors: Vectors, count: int, seed: int) -> Vectors:
    """At most so many centres; fewer where there are fewer different vectors. The same for the same rows in order."""
    from sklearn.cluster import KMeans

    # An encoder's last digits depend on what else was in the batch.
    points = np.unique(np.round(vectors, 4), axis=0)
    if len(points) <= count:
        return points.astype(np.float32)
    made = KMeans(count, n_init=3, random_state=seed).fit(points)
    found: Vectors = made.cluster_centers_.astype(np.float32)
    return found


def nearest(vectors: Vectors, found: Vectors) -> list[int]:
    """The number of each vector's nearest centre."""
    distances = (found**2).sum(axis=1) - 2 * vectors @ found.T
    return [int(each) for each in np.round(distances, 4).argmin(axis=1)]
