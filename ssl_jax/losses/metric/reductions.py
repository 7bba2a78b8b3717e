"""What the sum over pairs or triplets is divided by."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.core.arrays import Array

REDUCTIONS = ("mean_nonzero", "mean", "sum")


def reduce(
    total: Float[Array, ""], nonzero: Float[Array, ""], valid: Float[Array, ""], reduction: str
) -> Float[Array, ""]:
    """Reduces the sum of the losses of pairs or triplets.

    Args:
      total: their sum.
      nonzero: how many of them are not 0.
      valid: how many there are.
      reduction: "mean_nonzero" divides by `nonzero` (Hermans et al. 2017, BA!=0), "mean" by
        `valid`, "sum" by 1. Without pairs the loss is 0.

    Raises:
      ValueError: the reduction is unknown.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"unknown reduction {reduction!r}; one of {', '.join(REDUCTIONS)}")
    count = {"mean_nonzero": nonzero, "mean": valid, "sum": jnp.ones_like(total)}[reduction]
    return total / jnp.maximum(count, 1)


def share(part: Float[Array, ""], whole: Float[Array, ""]) -> Float[Array, ""]:
    """part / whole, 0 where there is nothing."""
    return part / jnp.maximum(whole, 1)
