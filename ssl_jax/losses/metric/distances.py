"""Distances between embeddings: of all rows to all columns, and of pairs of rows."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.core.arrays import Array
from ssl_jax.losses.contrastive import unit_length
from ssl_jax.losses.tiles import row_products, similarity

DISTANCES = ("euclidean", "squared", "cosine", "angular")
_DIRECTIONS = ("cosine", "angular")  # do not depend on the norms of the embeddings


def prepare(
    z: Float[Array, "n d"], *, distance: str, l2_normalize: bool = True
) -> Float[Array, "n d"]:
    """The embeddings that the functions below take: of unit length where asked or needed.

    Args:
      z: [n d], float32 or bfloat16, of any norm.
      distance: one of `DISTANCES`. "cosine" and "angular" always scale to unit length.
      l2_normalize: scale to unit length also for the other distances.

    Raises:
      ValueError: the distance is unknown, or z is not [n d].
    """
    if distance not in DISTANCES:
        raise ValueError(f"unknown distance {distance!r}; one of {', '.join(DISTANCES)}")
    if z.ndim != 2:
        raise ValueError(f"embeddings must be [n d], got {z.shape}")
    wide = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    return unit_length(wide) if l2_normalize or distance in _DIRECTIONS else wide


def matrix(
    x: Array, y: Array, x_square: Array, y_square: Array, *, distance: str
) -> Float[Array, "r c"]:
    """Distances of rows to columns from their dot products.

    Args:
      x, y: [r d], [c d], from `prepare`.
      x_square, y_square: [r], [c], their squared norms.
      distance: one of `DISTANCES`: |x - y|, |x - y|^2, 1 - cos, or the angle in radians.

    Returns:
      [r c]. Dot products know a squared distance to `rounding(dtype)` of the squared norms. Smaller
      ones are 0, with gradient 0: duplicates have finite gradients.
    """
    s = similarity(x, y)
    if distance == "cosine":
        return 1 - s
    if distance == "angular":
        return angle(s)
    squares = x_square[:, None] + y_square[None, :]
    squared = squares - 2 * s
    squared = jnp.where(squared > rounding(s.dtype) * squares, squared, 0)
    return squared if distance == "squared" else safe_sqrt(squared)


def paired(x: Array, y: Array, *, distance: str) -> Float[Array, " n"]:
    """Distances of row i of `x` to row i of `y`, both [n d] from `prepare`; exact near 0."""
    if distance == "cosine":
        return 1 - row_products(x, y)
    if distance == "angular":
        return angle(row_products(x, y))
    squared = jnp.sum(jnp.square(x - y), axis=-1)
    return squared if distance == "squared" else safe_sqrt(squared)


def rounding(dtype: jnp.dtype) -> float:
    """The error of a squared distance that is a difference of products, relative to the norms."""
    return 4 * float(jnp.finfo(dtype).eps)


def safe_sqrt(x: Array) -> Array:
    """The square root, with gradient 0 at 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def angle(cosine: Array) -> Array:
    """The angle in radians, [0, pi], with gradient 0 at the ends."""
    sine = safe_sqrt(jnp.maximum(1 - jnp.square(cosine), 0))
    inside = sine > 0
    turned = jnp.arctan2(jnp.where(inside, sine, 1), jnp.where(inside, cosine, 0))
    return jnp.where(inside, turned, jnp.where(cosine > 0, 0.0, jnp.pi))
