"""Whether the middle between two examples is an image like those of the data."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def distance_to_data(
    images: Float[np.ndarray, "m d"], data: Float[np.ndarray, "n d"], neighbours: int
) -> float:
    """Mean Euclidean distance of images to their nearest neighbours in the data.

    Args:
      images, data: pixels, one image per row.
      neighbours: k; the mean is over the k nearest of the data, and over images.
    """
    from sklearn.neighbors import NearestNeighbors  # takes a second to import

    nearest = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(data)
    return float(np.mean(nearest.kneighbors(images)[0], dtype=np.float64))


def pairs(count: int, limit: int, seed: int) -> Int[np.ndarray, "p 2"]:
    """At most `limit` random pairs of `count` examples; an example is in one pair only."""
    order = np.random.default_rng(seed).permutation(count)
    return order[: 2 * min(limit, count // 2)].reshape(-1, 2)
