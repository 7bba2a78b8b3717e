"""Relative positions of T5 (Raffel et al. 2020, Sec. 2.1): a bias of the attention logits.

    logits_ij = q_i.k_j + b[bucket(j - i)]    in every head, without division by sqrt(d)

Near distances have a bucket of their own. Farther ones share buckets that grow with the logarithm
of the distance, up to `max_distance`; all beyond are in the last bucket. Bidirectional attention
has half of the buckets for keys before the query and half for keys behind it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

Array = jax.Array


def relative_bucket(
    offset: Array, *, bidirectional: bool, num_buckets: int = 32, max_distance: int = 128
) -> Array:
    """The bucket of each offset, int32 of the same shape.

    Args:
      offset: int, position of the key minus position of the query.
      bidirectional: distinguish keys behind the query; else they are as the query itself.
      num_buckets: number of buckets.
      max_distance: distance from which on all are in the last bucket (of their side).
    """
    count = num_buckets // 2 if bidirectional else num_buckets
    of_distance = jnp.asarray(_buckets(count, max_distance))
    distance = jnp.abs(offset) if bidirectional else jnp.maximum(-offset, 0)
    bucket = of_distance[jnp.minimum(distance, max_distance)]
    return bucket + jnp.where(offset > 0, count, 0) if bidirectional else bucket


def _buckets(count: int, max_distance: int) -> np.ndarray:
    """The bucket of each distance from 0 to `max_distance`, int32."""
    exact = count // 2
    distance = np.arange(max_distance + 1)
    share = np.log(np.maximum(distance, exact) / exact) / np.log(max_distance / exact)
    # Where the logarithm is a whole number it must not be rounded down.
    far = exact + np.floor(share * (count - exact) + 1e-9).astype(np.int32)
    return np.where(distance < exact, distance, np.minimum(far, count - 1)).astype(np.int32)


class RelativeBias(nn.Module):
    """The bias of each head for each bucket.

    Attributes:
      num_heads: number of heads.
      bidirectional, num_buckets, max_distance: see `relative_bucket`.
      std: standard deviation of the initial values.
      dtype: dtype of the result.
    """

    num_heads: int
    bidirectional: bool
    num_buckets: int
    max_distance: int
    std: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, query: Array, key: Array) -> Array:
        """Positions of queries int [n t] and keys int [s] to biases [n heads t s]."""
        shape = (self.num_buckets, self.num_heads)
        table = self.param("embedding", nn.initializers.normal(self.std), shape, jnp.float32)
        bucket = relative_bucket(
            key - query[..., None],
            bidirectional=self.bidirectional,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
        )  # (n, t, s)
        return jnp.moveaxis(jnp.asarray(table, self.dtype)[bucket], -1, 1)
