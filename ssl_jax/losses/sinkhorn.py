"""Codes that use all prototypes equally, by Sinkhorn's algorithm (SwAV, Caron et al. 2020).

Scores s_ik of n embeddings and k prototypes become codes q_ik, near softmax(s_i / epsilon) but with
equal sums over the embeddings for every prototype, so that no prototype gets them all:

    Q = argmax of <Q, S> + epsilon H(Q),    Q 1 = 1/n,    Q^T 1 = 1/k             (Eq. 3)

The solution is exp(s / epsilon) with rows and columns scaled. Scores over epsilon = 0.05 reach 20
and overflow in bfloat16, and exp of them in float16: everything here is float32, in logarithms.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from ssl_jax.core.arrays import Array, Scalar
from ssl_jax.losses.tiles import NEVER, check_temperature


def sinkhorn(
    scores: Float[Array, "n k"],
    *,
    epsilon: Scalar = 0.05,
    iterations: int = 3,
    mask: Bool[Array, " n"] | None = None,
) -> Float[Array, "n k"]:
    """Codes q of embeddings, without gradient (SwAV, Eq. 3 to 5).

    An iteration scales the columns (prototypes) to equal sums, then the rows (embeddings) to 1. The
    columns' sums are over the global batch: under jit with rows split over devices, XLA adds them.

    Args:
      scores: products of embeddings and prototypes, any float dtype.
      epsilon: > 0, the weight of the entropy; a smaller one makes codes more certain.
      iterations: 0 is the softmax of each row alone, without equal use of the prototypes.
      mask: rows that count; others get a code too, which leaves those of the rest alone. If no row
        counts the codes are uniform.

    Returns:
      float32 [n k]; rows sum to 1, and columns to n/k at convergence.

    Raises:
      ValueError: epsilon is not positive.
    """
    check_temperature(epsilon)
    scores = jax.lax.stop_gradient(scores).astype(jnp.float32) / epsilon
    of_rows = jnp.zeros((scores.shape[0], 1), jnp.float32)  # logarithms of the factors
    of_columns = jnp.zeros((1, scores.shape[1]), jnp.float32)
    for _ in range(iterations):
        scaled = scores + of_rows
        counted = scaled if mask is None else jnp.where(mask[:, None], scaled, NEVER)
        of_columns = -jax.nn.logsumexp(counted, axis=0, keepdims=True)
        of_rows = -jax.nn.logsumexp(scores + of_columns, axis=1, keepdims=True)
    return jax.nn.softmax(scores + of_columns, axis=1)
