"""The two terms of LeJEPA: invariance between views, and SIGReg, which makes embeddings Gaussian.

    invariance   mean over images, views and dimensions of (z - c)^2
    SIGReg       mean over slices a of the test statistic of Epps & Pulley for the numbers z . a

                 n integral of |mean exp(i t z.a) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt

c is the mean of an image's large views. Slices are random unit vectors, new ones at each step. If
every slice of z is standard normal, so is z, and no other regulariser is needed against collapse
(Balestriero & LeCun 2025, Sec. 4).

Means are over the global batch and n is its size. Some implementations use the batch of one device;
their regulariser then depends on the number of devices.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.core.arrays import Array
from ssl_jax.losses.contrastive import unit_length
from ssl_jax.losses.tiles import product


def sigreg(
    z: Float[Array, "n d"],
    *,
    key: Array,
    num_slices: int = 1024,
    num_points: int = 17,
    last_point: float = 3.0,
) -> Float[Array, ""]:
    """SIGReg of the embeddings of one view (LeJEPA, Alg. 1; released code).

    The integral over t from -3 to 3 is twice the trapezoidal sum from 0 to 3, because the integrand
    is even.

    Args:
      z: [n d], embeddings of the global batch, not normalised.
      key: random key of the slices, the same on every device.
      num_slices: number of random directions.
      num_points: number of values of t, evenly spaced from 0 to `last_point`.
      last_point: the largest t.

    Returns:
      float32 []: 0.402 n if all z are 0; about 1.05 if they are standard normal, for any n.

    Raises:
      ValueError: there are fewer than 2 points, or no slice.
    """
    if num_slices < 1 or num_points < 2:
        raise ValueError(
            f"num_slices must be at least 1 and num_points at least 2, got {num_slices} and "
            f"{num_points}"
        )
    n, d = z.shape
    slices = unit_length(jax.random.normal(key, (num_slices, d)))
    x = product("nd,kd->nk", z.astype(jnp.float32), slices)
    t = jnp.linspace(0.0, last_point, num_points)
    gaussian = jnp.exp(-(t**2) / 2)
    step = last_point / (num_points - 1)
    ends = (jnp.arange(num_points) == 0) | (jnp.arange(num_points) == num_points - 1)
    weights = jnp.where(ends, step, 2 * step) * gaussian

    @jax.checkpoint
    def distance_at(point: tuple[Array, Array]) -> Array:  # [k]
        t, gaussian = point
        real, imaginary = jnp.mean(jnp.cos(t * x), axis=0), jnp.mean(jnp.sin(t * x), axis=0)
        return jnp.square(real - gaussian) + jnp.square(imaginary)

    distances = jax.lax.map(distance_at, (t, gaussian))  # (points, slices)
    return n * jnp.mean(weights @ distances)


def invariance(z: Float[Array, "n v d"], *, large: int) -> Float[Array, ""]:
    """The mean squared distance of views to the centre of their image (LeJEPA, Eq. of Sec. 5).

    Args:
      z: [n v d], embeddings of v views, the large views first.
      large: number of large views. Their mean is the centre, which is differentiated too.

    Returns:
      float32 [], a mean over images, views and dimensions.

    Raises:
      ValueError: `large` is not between 1 and v.
    """
    if not 1 <= large <= z.shape[1]:
        raise ValueError(
            f"large must be between 1 and {z.shape[1]}, the number of views; got {large}"
        )
    z = z.astype(jnp.float32)
    centre = jnp.mean(z[:, :large], axis=1, keepdims=True)
    return jnp.mean(jnp.square(z - centre))
