"""Margins of the losses that compare examples with classes, as functions of a cosine.

    cosine          cos t - m                         CosFace, Wang et al. 2018, Eq. 4
    arc             cos(t + m)                        ArcFace, Deng et al. 2019, Eq. 3
    multiplicative  (-1)^k cos(m t) - 2k,             SphereFace, Liu et al. 2017, Eq. 7
                    t in [k pi / m, (k + 1) pi / m]

t is the angle between an example and its own class.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.core.arrays import Array, Scalar
from ssl_jax.losses.metric.distances import safe_sqrt


def arc(
    cosine: Float[Array, " n"],
    margin: Scalar | Float[Array, " n"],
    *,
    straight_through: bool = False,
) -> Float[Array, " n"]:
    """cos(t + m), with a finite gradient also at cos t = 1 and -1.

    Args:
      cosine: [n], cos t.
      margin: m in radians, for all or for each example.
      straight_through: the gradient of the identity instead, as in insightface's released layer,
        which adds the margin outside of autodiff.

    Returns:
      [n]. Where t > pi - m, cos(t + m) would fall again; there it is cos t - m sin m, so that the
      margin never rewards a larger angle (ArcFace's first released code). The straight-through form
      has cos(t + m) everywhere, like the layer that it follows.
    """
    cosine = jnp.clip(cosine, -1, 1)
    sine = safe_sqrt(1 - jnp.square(cosine))
    turned = cosine * jnp.cos(margin) - sine * jnp.sin(margin)
    if straight_through:
        return cosine + jax.lax.stop_gradient(turned - cosine)
    return jnp.where(cosine > -jnp.cos(margin), turned, cosine - margin * jnp.sin(margin))


def multiplicative(cosine: Float[Array, " n"], margin: int) -> Float[Array, " n"]:
    """SphereFace's psi(t), which falls from 1 to 1 - 2m as t grows from 0 to pi.

    Args:
      cosine: [n], cos t.
      margin: m, a whole number; 1 is cos t.
    """
    previous, chebyshev = jnp.ones_like(cosine), cosine  # cos(0 t), cos(1 t)
    for _ in range(margin - 1):
        previous, chebyshev = chebyshev, 2 * cosine * chebyshev - previous
    turns = jnp.floor(jnp.arccos(jnp.clip(cosine, -1, 1)) * (margin / jnp.pi))
    k = jax.lax.stop_gradient(jnp.minimum(turns, margin - 1))
    return (1 - 2 * (k % 2)) * chebyshev - 2 * k


def annealing(
    step: Scalar, *, start: float = 1000.0, rate: float = 0.12, end: float = 5.0
) -> Float[Array, ""]:
    """SphereFace's weight of the loss without margin, max(end, start / (1 + rate step)).

    The numbers are those of the released code.
    """
    return jnp.maximum(end, start / (1 + rate * jnp.asarray(step, jnp.float32)))


def from_counts(
    counts: Float[Array, " c"], *, power: float = 0.25, smallest: float = 0.05, largest: float = 0.5
) -> Float[Array, " c"]:
    """Margins that are larger for rarer classes (Ha et al. 2020, Sec. 3.2).

    m_c = a N_c^-power + b, with a and b such that the margins reach from `smallest` to `largest`,
    as in the released code. Where all classes have the same size, all get the mean of the two.

    Args:
      counts: [c], examples of each class. A class without examples counts as one with 1.
      power: lambda.
      smallest, largest: margins in radians of the largest and of the smallest class.
    """
    scores = jnp.maximum(counts, 1.0) ** -power
    low, high = scores.min(), scores.max()
    differ = high > low
    place = jnp.where(differ, (scores - low) / jnp.where(differ, high - low, 1), 0.5)
    return smallest + (largest - smallest) * place
