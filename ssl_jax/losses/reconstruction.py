"""The squared error of an autoencoder."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.core.arrays import Array


def squared_error(
    predicted: Float[Array, "n ..."], target: Float[Array, "n ..."]
) -> Float[Array, " n"]:
    """The squared error of each example, summed over its values, float32.

    Args:
      predicted, target: of any float dtype.
    """
    error = jnp.square(predicted.astype(jnp.float32) - target.astype(jnp.float32))
    return jnp.sum(error, axis=tuple(range(1, error.ndim)))
