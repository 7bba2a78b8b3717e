"""Classes of the positions of images by the nearest positions of other images.

Each position of the bank has the shares of the classes among its pixels. A query gets the mean of
the shares of its k nearest ones by cosine, weighted by exp(similarity / tau), as in Balazevic et
al. 2023, "Towards In-Context Scene Understanding" (Sec. 3; k = 30, tau = 0.02).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from ssl_jax.evals import knn

_VALUES = 2**25  # shares that are gathered at once


@dataclasses.dataclass(frozen=True)
class Bank:
    """Positions with known classes.

    Attributes:
      x: features float32 [m d].
      shares: of the classes, float32 [m c]; rows add up to 1.
    """

    x: np.ndarray
    shares: np.ndarray

    @classmethod
    def of(
        cls,
        x: Float[np.ndarray, "n p d"],
        counts: Int[np.ndarray, "n p c"],
        *,
        limit: int,
        seed: int,
    ) -> Bank:
        """At most `limit` positions, drawn at random, that have pixels of a class."""
        counts = counts.reshape(-1, counts.shape[-1])
        (rows,) = np.nonzero(counts.sum(axis=1))
        if limit < len(rows):
            rows = np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
        shares = counts[rows] / counts[rows].sum(axis=1, keepdims=True)
        return cls(x.reshape(-1, x.shape[-1])[rows], shares.astype(np.float32))

    def scores(
        self, x: Float[np.ndarray, "n p d"], ks: tuple[int, ...], temperature: float
    ) -> dict[int, np.ndarray]:
        """The weighted shares of the classes for each k: float32 [n p c]; k is at most m."""
        queries = x.reshape(-1, x.shape[-1])
        k = min(max(ks), len(self.x))
        similarity, index = knn.neighbours(queries, self.x, k)
        classes = self.shares.shape[1]
        out = {k: np.empty((len(queries), classes), np.float32) for k in ks}
        block = max(1, _VALUES // (k * classes))
        for first in range(0, len(queries), block):
            rows = slice(first, first + block)
            shares = self.shares[index[rows]]  # [b k c]
            best = similarity[rows, :1]
            weight = np.exp((similarity[rows] - best) / temperature)
            for k in ks:
                total = np.einsum("bk,bkc->bc", weight[:, :k], shares[:, :k])
                out[k][rows] = total / weight[:, :k].sum(axis=1, keepdims=True)
        return {k: scores.reshape(*x.shape[:2], classes) for k, scores in out.items()}
