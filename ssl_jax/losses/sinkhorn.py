"""Codes that use all prototypes equally, by Sinkhorn's algorithm (SwAV, Caron et al. 2020).

The algorithm turns scores s_ik of n embeddings and k prototypes into codes q_ik. Codes are close to
softmax(s_i / epsilon), but all prototypes have the same sum over the embeddings, so that no
prototype gets all embeddings:

    Q = argmax of <Q, S> + epsilon H(Q),    Q 1 = 1/n,    Q^T 1 = 1/k             (Eq. 3)

The solution is exp(s / epsilon) with scaled rows and columns. With epsilon = 0.05 the scores over
epsilon reach 20: bfloat16 is too coarse for them, and their exp overflows in float16. So all
arithmetic is in float32 and on logarithms.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from ssl_jax.core.arrays import Array, Scalar
from ssl_jax.losses.tiles import MASKED, check_temperature


def sinkhorn(
    scores: Float[Array, "n k"],
    *,
    epsilon: Scalar = 0.05,
    iterations: int = 3,
    mask: Bool[Array, " n"] | None = None,
) -> Float[Array, "n k"]:
    """Computes the codes q of embeddings, without gradient (SwAV, Eq. 3 to 5).

    Each iteration scales the columns (prototypes) to equal sums, then the rows (embeddings) to sums
    of 1. Column sums are over the global batch: under jit XLA adds the sums of all devices.

    Args:
      scores: products of embeddings and prototypes, any float dtype.
      epsilon: > 0, the weight of the entropy; smaller values give sharper codes.
      iterations: number of iterations; 0 gives the softmax of each row, without equal use of the
        prototypes.
      mask: true for rows that enter the column sums. Other rows get a code as well, but do not
        change the codes of the rows that enter. If no row enters, codes are uniform.

    Returns:
      float32 [n k]; rows sum to 1, and columns to n/k at convergence.

    Raises:
      ValueError: epsilon is not positive.
    """
    check_temperature(epsilon)
    scores = jax.lax.stop_gradient(scores).astype(jnp.float32) / epsilon
    row_scale = jnp.zeros((scores.shape[0], 1), jnp.float32)  # logarithms of the scaling factors
    column_scale = jnp.zeros((1, scores.shape[1]), jnp.float32)
    for _ in range(iterations):
        scaled = scores + row_scale
        counted = scaled if mask is None else jnp.where(mask[:, None], scaled, MASKED)
        column_scale = -jax.nn.logsumexp(counted, axis=0, keepdims=True)
        row_scale = -jax.nn.logsumexp(scores + column_scale, axis=1, keepdims=True)
    return jax.nn.softmax(scores + column_scale, axis=1)
