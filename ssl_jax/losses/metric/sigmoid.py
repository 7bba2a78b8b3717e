"""The sigmoid loss of pairs from two nets (SigLIP, Zhai et al. 2023, Eq. 1 and Algorithm 1).

    L = - 1/n sum_ij log sigma(y_ij (t x_i.y_j + b)),    y_ij = 1 if i = j, else -1

x and y are of unit length, t = exp(t'), and t' and b are learned: log 10 and -10 at first.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.core import batch_axes
from ssl_jax.core.arrays import Array, Scalar
from ssl_jax.losses import pair_plan, pairs
from ssl_jax.losses.contrastive import unit_length
from ssl_jax.losses.implementation import BLOCK_SIZE, choose_one_sided
from ssl_jax.losses.tiles import row_products


def sigmoid(
    x: Float[Array, "n d"],
    y: Float[Array, "n d"],
    *,
    log_scale: Scalar,
    bias: Scalar,
    l2_normalize: bool = True,
    block_size: int | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The sigmoid loss, in memory linear in n also in the backward pass.

    Args:
      x: [n d] embeddings of one net, float32 or bfloat16; split over the devices.
      y: [n d] embeddings of the other; row i belongs to row i of `x`.
      log_scale: t'. Differentiable.
      bias: b. Differentiable.
      l2_normalize: scale the embeddings to unit length.
      block_size: rows and columns of a tile; None: chosen by size.

    Returns:
      (loss, metrics): the mean over the n rows of the sum over the n columns, float32 [], and
      `contrastive_accuracy`, the share of rows whose nearest column is their own.

    Raises:
      ValueError: shapes differ or are not [n d], or n does not divide over the devices.
    """
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(f"sigmoid takes two [n d] arrays of one shape, got {x.shape}, {y.shape}")
    n = len(x)
    batch_axes.check_divisible(n, "pairs")
    scale = jnp.exp(log_scale)
    x, y = (unit_length(z) for z in (x, y)) if l2_normalize else (x, y)
    x = (x * scale).astype(x.dtype)
    if block_size is None and choose_one_sided(n, n)[0] != "dense":
        block_size = BLOCK_SIZE
    plan = pair_plan.Plan(block_size, softmax=False, function=_repulsion)
    positive = row_products(x, y)
    offset = jnp.full_like(positive, 1) * bias
    stats = pairs.statistics(x, y, offset, columns=pairs.BATCH, plan=plan)
    loss = jnp.mean(jax.nn.softplus(-(positive + offset)) + stats.total)
    accuracy = jnp.mean((positive >= stats.top).astype(jnp.float32))
    return loss, {"contrastive_accuracy": jax.lax.stop_gradient(accuracy)}


def _repulsion(s: Array, offset: Array) -> Array:
    """-log sigma(-(s + b))"""
    return jax.nn.softplus(s + offset)
