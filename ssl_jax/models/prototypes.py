"""A linear layer whose rows are prototypes of fixed norm, by weight normalisation.

    w_k = g_k v_k / |v_k|          Salimans & Kingma 2016, Eq. 2

The direction v is learned; the magnitude g is 1 or learned. DINO's last layer is such a layer
(Caron et al. 2021, released code). It is not equivalent to projecting w back onto the sphere after
every update. Gradients are orthogonal to v, so updates make v longer, and the same update then
turns it by a smaller angle. Weight decay makes v shorter and the angle larger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.core.errors import UserError
from ssl_jax.models.functional import Net

Array = jax.Array


class Prototypes(nn.Module):
    """The layer.

    Attributes:
      count: k, number of prototypes.
      learn_magnitude: learn g; otherwise g is 1.
    """

    count: int
    learn_magnitude: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """`[... d]` to the outputs `[... k]`, float32."""
        del train
        bound = 1 / math.sqrt(x.shape[-1])  # PyTorch's initialiser of a linear layer

        def uniform(key: Array, shape: tuple[int, ...]) -> Array:
            return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

        params = {"direction": self.param("direction", uniform, (x.shape[-1], self.count))}
        if self.learn_magnitude:
            params["magnitude"] = self.param("magnitude", nn.initializers.ones, (self.count,))
        return x.astype(jnp.float32) @ prototype_matrix(params)


def prototype_matrix(params: Mapping[str, Any]) -> Array:
    """The normalised weights w of the parameters of `Prototypes`, `[d k]`, float32."""
    direction = params["direction"]
    norm = jnp.linalg.norm(direction, axis=0)
    return direction * (params.get("magnitude", 1.0) / norm)


def prototypes(count: int, *, learn_magnitude: bool = False) -> Net:
    """Makes a `Prototypes` and checks the number.

    Raises:
      UserError: `count` is less than 2.
    """
    if count < 2:
        raise UserError(f"{count} prototypes cannot tell images apart; use at least 2")
    return Net(Prototypes(count, learn_magnitude))
