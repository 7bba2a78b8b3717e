"""KoLeo: spreads unit vectors by pushing each one away from its nearest neighbour.

    - mean over i of log |x_i - x_nn(i)|

This is the estimate of Kozachenko and Leonenko of the entropy of a distribution, up to constants
(Sablayrolles et al. 2019, Sec. 4.2; DINOv2, Oquab et al. 2023, Sec. 4).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.core.arrays import Array
from ssl_jax.losses.contrastive import unit_length
from ssl_jax.losses.tiles import product

_EPSILON = 1e-8


def koleo(x: Float[Array, "n d"], *, chunk: int) -> Float[Array, ""]:
    """KoLeo of the rows of `x`, scaled to norm 1, in float32.

    Args:
      x: [n d], any float dtype.
      chunk: neighbours are searched among this many consecutive rows, independent of the number of
        devices. In DINOv2's released code they are the images of a GPU.

    Returns:
      float32 []; -log sqrt(2) for vectors that are orthogonal to each other.

    Raises:
      ValueError: chunk is less than 2, or does not divide n.
    """
    n, d = x.shape
    if chunk < 2 or n % chunk:
        raise ValueError(f"got chunks of {chunk} of {n} rows; use at least 2, and a divisor of {n}")
    x = unit_length(x.astype(jnp.float32), eps=_EPSILON).reshape(-1, chunk, d)
    cosines = jax.lax.stop_gradient(product("cid,cjd->cij", x, x))
    nearest = jnp.argmax(jnp.where(jnp.eye(chunk, dtype=bool), -2.0, cosines), axis=-1)
    neighbours = jnp.take_along_axis(x, nearest[:, :, None], axis=1)
    distances = jnp.linalg.norm(x - neighbours + _EPSILON, axis=-1)
    return -jnp.mean(jnp.log(distances + _EPSILON))
