"""Corrupted inputs of denoising autoencoders (Vincent et al. 2010, Sec. 3.3)."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.core.arrays import Array
from ssl_jax.core.errors import UserError

Corruption = Literal["none", "masking", "salt_and_pepper", "gaussian"]


def check_amount(kind: Corruption, amount: float) -> None:
    """Raises UserError if a share of changed values is above 1."""
    if kind in ("masking", "salt_and_pepper") and amount > 1:
        raise UserError(
            f"method.amount={amount:g} is the share of values that {kind} changes; use at most 1"
        )


def corrupt(
    keys: Array, x: Float[Array, "n h w c"], *, kind: Corruption, amount: float
) -> Float[Array, "n h w c"]:
    """Corrupts each image with its own key.

    Args:
      keys: [n], one key an image.
      x: images; the values black 0 and white 1 for `salt_and_pepper`.
      kind: "masking": values are 0 with probability `amount`. "salt_and_pepper": with probability
        `amount` values are 0 or 1, with equal chances. "gaussian": adds noise of standard deviation
        `amount`; values may leave [0, 1]. "none": the images as they are.
      amount: see `kind`.
    """
    if kind == "none":
        return x

    def one(key: Array, image: Array) -> Array:
        if kind == "gaussian":
            return image + amount * jax.random.normal(key, image.shape, image.dtype)
        drawn = jax.random.uniform(key, image.shape)
        if kind == "masking":
            return jnp.where(drawn < amount, 0, image)
        white = drawn < amount / 2
        return jnp.where(drawn < amount, white.astype(image.dtype), image)

    return jax.vmap(one)(keys, x)
