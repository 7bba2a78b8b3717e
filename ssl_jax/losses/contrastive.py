"""Contrastive losses over the global batch, as pure functions of embeddings.

Written in the global view: under `jit` on a mesh XLA adds the collectives, so a loss and its
gradient are the same on any number of devices.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def unit_length(x: Array, *, eps: float = 1e-6) -> Array:
    """Scales the last axis to unit length; a zero vector stays zero, with a finite gradient.

    Args:
      x: [... d], any float dtype; the norm is taken in float32.
      eps: vectors shorter than this are divided by it instead of by their length.

    Returns:
      [... d] in the dtype of `x`.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.sum(wide * wide, axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(jnp.maximum(square, eps * eps))).astype(x.dtype)


def nt_xent(
    za: Array, zb: Array, *, temperature: float, l2_normalize: bool = True
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

    Returns:
      (loss, metrics): the mean over the 2n anchors, float32 [], and float32 scalars as in the
      paper's Table 5, which rank for each of `za` the n candidates `zb`: `contrastive_accuracy`,
      the share whose nearest candidate is the positive, and `entropy` (nats) of their softmax.

    Raises:
      ValueError: shapes differ or are not [n d], or the temperature is not positive.
    """
    if za.ndim != 2 or za.shape != zb.shape:
        raise ValueError(f"nt_xent takes two [n d] arrays of one shape, got {za.shape}, {zb.shape}")
    if not isinstance(temperature, jax.core.Tracer) and not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if l2_normalize:
        za, zb = unit_length(za), unit_length(zb)
    itself = jnp.eye(za.shape[0], dtype=bool)

    s_ab = _similarity(za, zb) / temperature  # (n, n)
    s_aa = jnp.where(itself, _NEVER, _similarity(za, za) / temperature)
    s_bb = jnp.where(itself, _NEVER, _similarity(zb, zb) / temperature)
    positive = jnp.diagonal(s_ab)  # (n,)

    lse_ab = jax.nn.logsumexp(s_ab, axis=1)  # (n,) over candidates of the other view
    lse_a = jnp.logaddexp(lse_ab, jax.nn.logsumexp(s_aa, axis=1))
    lse_b = jnp.logaddexp(jax.nn.logsumexp(s_ab, axis=0), jax.nn.logsumexp(s_bb, axis=1))
    loss = jnp.mean(0.5 * (lse_a + lse_b) - positive)

    s_ab, lse_ab, positive = jax.lax.stop_gradient((s_ab, lse_ab, positive))
    log_p = s_ab - lse_ab[:, None]
    metrics = {
        "contrastive_accuracy": jnp.mean((positive >= jnp.max(s_ab, axis=1)).astype(jnp.float32)),
        "entropy": -jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=1)),
    }
    return loss, metrics


# Finite, so that a row with nothing but itself (n = 1) has no NaN gradient.
_NEVER = jnp.finfo(jnp.float32).min / 2


def _similarity(x: Array, y: Array) -> Array:
    """Dot products [n d], [m d] -> [n m], accumulated in float32 or wider.

    bfloat16 inputs are multiplied as they are; float32 ones in full precision, since a TPU would
    otherwise round them to bfloat16 and a temperature of 0.1 makes that error ten times larger.
    """
    precision = jax.lax.Precision.HIGHEST if x.dtype != jnp.bfloat16 else None
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.einsum("id,jd->ij", x, y, precision=precision, preferred_element_type=wide)
