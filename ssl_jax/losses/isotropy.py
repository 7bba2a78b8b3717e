"""LeJEPA's two terms: views agree, and embeddings are an isotropic Gaussian (SIGReg).

    invariance   mean over images, views and dimensions of (z - c)^2
    SIGReg       mean over slices a of the test statistic of Epps & Pulley of the numbers z . a

                 n integral of |mean exp(i t z.a) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt

c is the mean of an image's large views. Slices are random unit vectors, drawn anew at each step. If
every slice of z is a standard normal, so is z, and no other regulariser is needed against collapse
(Balestriero & LeCun 2025, Sec. 4).

Means are over the global batch and n is its size. Where they are a device's, as in some codes, the
strength of the regulariser depends on the number of devices.
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
    """SIGReg of one view's embeddings (LeJEPA, Alg. 1; released code).

    The integral over t from -3 to 3 is a trapezoidal sum over points from 0 on, doubled, because
    the integrand is even.

    Args:
      z: embeddings of the global batch, not normalised.
      key: draws the slices, the same on every device.
      num_slices: random directions.
      num_points: values of t, at equal distances from 0.
      last_point: the largest t.

    Returns:
      float32 []: 0.402 n where all z are 0; about 1.05 where they are standard normal, whatever n.

    Raises:
      ValueError: fewer than 2 points or 1 slice.
    """
    if num_slices < 1 or num_points < 2:
        raise ValueError(f"got {num_slices} slices and {num_points} points; use 1 and 2 or more")
    n, d = z.shape
    slices = unit_length(jax.random.normal(key, (num_slices, d)))
    x = product("nd,kd->nk", z.astype(jnp.float32), slices)
    t = jnp.linspace(0.0, last_point, num_points)
    gaussian = jnp.exp(-(t**2) / 2)
    step = last_point / (num_points - 1)
    ends = (jnp.arange(num_points) == 0) | (jnp.arange(num_points) == num_points - 1)
    weights = jnp.where(ends, step, 2 * step) * gaussian

    @jax.checkpoint
    def at(point: tuple[Array, Array]) -> Array:  # [k]
        t, gaussian = point
        real, imaginary = jnp.mean(jnp.cos(t * x), axis=0), jnp.mean(jnp.sin(t * x), axis=0)
        return jnp.square(real - gaussian) + jnp.square(imaginary)

    distances = jax.lax.map(at, (t, gaussian))  # (points, slices)
    return n * jnp.mean(weights @ distances)


def invariance(z: Float[Array, "n v d"], *, large: int) -> Float[Array, ""]:
    """The mean squared distance of views to the centre of an image (LeJEPA, Eq. of Sec. 5).

    Args:
      z: embeddings of v views, the large ones first.
      large: number of large views, whose mean is the centre; gradients reach it too.

    Returns:
      float32 [], a mean over images, views and dimensions.

    Raises:
      ValueError: there are not so many views, or none is large.
    """
    if not 1 <= large <= z.shape[1]:
        raise ValueError(f"{large} large views of {z.shape[1]}; give between 1 and that many")
    z = z.astype(jnp.float32)
    centre = jnp.mean(z[:, :large], axis=1, keepdims=True)
    return jnp.mean(jnp.square(z - centre))
