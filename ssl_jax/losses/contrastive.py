"""Contrastive losses over the global batch, as pure functions of embeddings.

Written in the global view: a loss and its gradient are the same on any number of devices. The mesh
that `jax.set_mesh` made ambient says which devices split the batch; without one, one device has it
all.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ssl_jax.losses import ambient, blockwise
from ssl_jax.losses.blockwise import NEVER, Negatives, similarity

Array = jax.Array

IMPLEMENTATIONS = ("auto", "dense", "blockwise", "ring")
# Views on a side of a tile, unless told: 4 MiB of float32.
BLOCK_SIZE = 1024
# `auto` keeps the whole matrix up to this size a device, and all keys on a device up to that one.
DENSE_BYTES = 16 * 2**20
KEYS_BYTES = 2**30


def unit_length(x: Array, *, scale: float | Array = 1.0, eps: float = 1e-6) -> Array:
    """Scales the last axis to length `scale`; a zero vector stays zero, with a finite gradient.

    Args:
      x: [... d], any float dtype; the norm is taken in float32.
      scale: length of the result.
      eps: vectors shorter than this are divided by it instead of by their length.

    Returns:
      [... d] in the dtype of `x`.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.sum(wide * wide, axis=-1, keepdims=True)
    return (wide * (scale * jax.lax.rsqrt(jnp.maximum(square, eps * eps)))).astype(x.dtype)


def nt_xent(
    za: Array,
    zb: Array,
    *,
    temperature: float | Array,
    l2_normalize: bool = True,
    implementation: str = "auto",
    block_size: int | None = None,
) -> tuple[Array, dict[str, Array]]:
    """The normalised temperature-scaled cross-entropy (SimCLR, Chen et al. 2020, Eq. 1).

    Each of the 2n views is an anchor once. Its positive is the other view of its image, its
    negatives are the 2n-2 views of the other images:

        l_i = -log  exp(s_ip / t) / sum_{j != i} exp(s_ij / t),    s_ij = cos(z_i, z_j)

    Args:
      za: [n d] embeddings of the first views, float32 or bfloat16, of any length.
      zb: [n d] embeddings of the second views; row i belongs to row i of `za`.
      temperature: t > 0, a divisor of the similarities.
      l2_normalize: False takes plain dot products (the unnormalised rows of Table 5).
      implementation: how, with one and the same result. "dense" holds the [2n 2n] matrix;
        "blockwise" makes it tile by tile, in memory linear in n, every device with all embeddings;
        "ring" sends the embeddings round, for batches of which a device cannot hold them all.
        "auto" picks by size, see `choose_implementation`.
      block_size: views on a side of a tile; `BLOCK_SIZE` by default.

    Returns:
      (loss, metrics): the mean over the 2n anchors, float32 [], and float32 scalars as in the
      paper's Table 5, which rank for each of `za` the n candidates `zb`: `contrastive_accuracy`,
      the share whose nearest candidate is the positive, and `entropy` (nats) of their softmax.

    Raises:
      ValueError: shapes differ or are not [n d], the temperature is not positive, there is no such
        implementation, or n does not divide over the devices.
    """
    if za.ndim != 2 or za.shape != zb.shape:
        raise ValueError(f"nt_xent takes two [n d] arrays of one shape, got {za.shape}, {zb.shape}")
    fixed = not isinstance(temperature, jax.core.Tracer)
    if fixed and not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"unknown implementation {implementation!r}; one of {', '.join(IMPLEMENTATIONS)}"
        )
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be positive, got {block_size}")
    # The temperature goes into the embeddings, half into each factor of a product.
    scale = 1 / jnp.sqrt(temperature)
    if l2_normalize:
        za, zb = (unit_length(z, scale=scale) for z in (za, zb))
    else:
        za, zb = ((z * scale).astype(z.dtype) for z in (za, zb))

    n, d = za.shape
    if implementation == "auto":
        implementation, _ = choose_implementation(n, d, itemsize=za.dtype.itemsize)
    if implementation == "dense":
        negatives = _dense(za, zb)
    else:
        bounded = l2_normalize and fixed and 1 / temperature <= blockwise.MAX_CONSTANT_SHIFT
        plan = blockwise.make_plan(
            n,
            ring=implementation == "ring",
            block_size=block_size or BLOCK_SIZE,
            shift=1 / float(temperature) if bounded else None,
        )
        negatives = blockwise.negatives(za, zb, plan)

    positive = _row_products(za, zb)
    lse_a, lse_b = (jnp.logaddexp(lse, positive) for lse in (negatives.lse_a, negatives.lse_b))
    loss = jnp.mean(0.5 * (lse_a + lse_b) - positive)
    return loss, _ranking(positive, negatives.cross_lse, negatives.cross_mean, negatives.cross_max)


def choose_implementation(
    n: int, d: int, *, itemsize: int = 4, shards: int | None = None
) -> tuple[str, str]:
    """What `implementation="auto"` picks for n images with embeddings of d numbers, and why.

    Args:
      itemsize: bytes of one number.
      shards: devices that split the batch; those of the ambient mesh by default.

    Returns:
      (name, reason).
    """
    shards = ambient.shards() if shards is None else shards
    matrix, keys = (2 * n) ** 2 * 4 // shards, 2 * n * d * itemsize
    if matrix <= DENSE_BYTES:
        return "dense", f"the similarities take {_mebibytes(matrix)} a device"
    if shards > 1 and keys > KEYS_BYTES:
        return "ring", f"all embeddings would take {_mebibytes(keys)} on every device"
    return "blockwise", (
        f"the similarities would take {_mebibytes(matrix)} a device, the embeddings take "
        f"{_mebibytes(keys)}"
    )


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.{1 if count < 10 * 2**20 else 0}f} MiB"


def _dense(za: Array, zb: Array) -> Negatives:
    """`blockwise.negatives` by way of the matrices themselves."""
    same = jnp.eye(len(za), dtype=bool)
    s_ab, s_aa, s_bb = (
        jnp.where(same, NEVER, similarity(x, y)) for x, y in ((za, zb), (za, za), (zb, zb))
    )
    lse_ab = jax.nn.logsumexp(s_ab, axis=1)
    fixed, fixed_lse = jax.lax.stop_gradient((s_ab, lse_ab))
    return Negatives(
        lse_a=jnp.logaddexp(lse_ab, jax.nn.logsumexp(s_aa, axis=1)),
        lse_b=jnp.logaddexp(jax.nn.logsumexp(s_ab, axis=0), jax.nn.logsumexp(s_bb, axis=1)),
        cross_lse=fixed_lse,
        cross_mean=jnp.sum(jnp.where(same, 0, jnp.exp(fixed - fixed_lse[:, None]) * fixed), axis=1),
        cross_max=jnp.max(fixed, axis=1),
    )


def _row_products(x: Array, y: Array) -> Array:
    """[n d], [n d] -> [n]: x_i.y_i, accumulated in float32 or wider."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.sum(x.astype(wide) * y.astype(wide), axis=-1)


def _ranking(positive: Array, lse: Array, mean: Array, top: Array) -> dict[str, Array]:
    """How well candidates are told apart, from statistics [n] of the negatives among them.

    Args:
      positive: similarity of the positive.
      lse, mean, top: log-sum-exp, softmax-weighted mean and maximum of the negatives'.
    """
    positive, lse, mean, top = jax.lax.stop_gradient((positive, lse, mean, top))
    everyone = jnp.logaddexp(lse, positive)
    # The entropy of a softmax is its log-sum-exp less the mean logit under it.
    expected = jnp.exp(lse - everyone) * mean + jnp.exp(positive - everyone) * positive
    return {
        "contrastive_accuracy": jnp.mean((positive >= top).astype(jnp.float32)),
        "entropy": jnp.mean(everyone - expected),
    }
