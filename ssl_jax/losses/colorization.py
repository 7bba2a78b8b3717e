"""Classification of the colour of pixels with rebalanced classes (Zhang et al. 2016, Sec. 2.2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.core.arrays import Array


def rebalancing_weights(
    frequencies: Float[Array, " q"], *, uniform_share: float
) -> Float[Array, " q"]:
    """The weight of each class (Eq. 4).

        w ~ ((1 - lambda) p + lambda / Q)^-1,    sum over classes of p w = 1

    Args:
      frequencies: p, sums to 1.
      uniform_share: lambda in [0, 1]; 0 gives all classes equal parts in the loss, 1 no
        rebalancing. The paper uses 0.5.

    Returns:
      w, float32. With lambda = 0 a class without pixels has an infinite weight.
    """
    frequencies = jnp.asarray(frequencies, jnp.float32)
    q = len(frequencies)
    weights = 1 / ((1 - uniform_share) * frequencies + uniform_share / q)
    return weights / jnp.sum(frequencies * weights)


def soft_cross_entropy(
    logits: Float[Array, "... q"], target: Float[Array, "... q"]
) -> Float[Array, ...]:
    """-sum over classes of target log softmax(logits), nats, float32 (Eq. 2 without weights).

    Args:
      logits: of any float dtype.
      target: sums to 1 over classes.
    """
    return -jnp.sum(target * jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1), axis=-1)
