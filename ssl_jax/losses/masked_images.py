"""Errors of predictions of hidden patches (MAE, He et al. 2022)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.core.arrays import Array


def patch_error(
    predicted: Float[Array, "n m q"], target: Float[Array, "n m q"]
) -> Float[Array, " n"]:
    """The mean squared error of each image over its m hidden patches and their q values, float32.

    With targets of mean 0 and unbiased variance 1, predictions of 0 cost (q - 1) / q.
    """
    difference = predicted.astype(jnp.float32) - target.astype(jnp.float32)
    return jnp.mean(jnp.square(difference), axis=(1, 2))
