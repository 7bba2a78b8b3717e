"""Shared parts of losses that compute similarities in tiles: products, tile sizes, logarithms.

A matrix of similarities is never held; tiles of it are made, used and made again for the gradient.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array

# Similarities of unit vectors at temperature t lie in [-1/t, 1/t]. Up to this bound a constant
# shift by 1/t serves every row: exp(-2/t) and its inverse stay within float32.
MAX_CONSTANT_SHIFT = 40.0
# Finite, so that a row of nothing but masked columns has no NaN.
NEVER = float(jnp.finfo(jnp.float32).min) / 2


def similarity(x: Array, y: Array) -> Array:
    """Dot products [m d], [n d] -> [m n], accumulated in float32 or wider.

    bfloat16 inputs are multiplied as they are; float32 ones in full precision, since a TPU would
    otherwise round them to bfloat16 and a temperature of 0.1 makes that error ten times larger.
    """
    return product("id,jd->ij", x, y)


def product(equation: str, x: Array, y: Array) -> Array:
    """An einsum in the precision of `y`, to which `x` is rounded; float32 or wider comes out."""
    precision = jax.lax.Precision.HIGHEST if y.dtype != jnp.bfloat16 else None
    wide = jnp.promote_types(y.dtype, jnp.float32)
    return jnp.einsum(
        equation, x.astype(y.dtype), y, precision=precision, preferred_element_type=wide
    )


def row_products(x: Array, y: Array) -> Array:
    """[n d], [n d] -> [n]: x_i.y_i, accumulated in float32 or wider."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.sum(x.astype(wide) * y.astype(wide), axis=-1)


def log_of_sum(total: Array, shift: Array | float) -> Array:
    """log(total) + shift, NEVER for an empty sum."""
    some = total > 0
    return jnp.where(some, shift + jnp.log(jnp.where(some, total, 1)), NEVER)


def chunk_size(count: int, limit: int) -> int:
    """The size of a chunk when `count` rows are cut evenly into chunks of at most about `limit`."""
    chunks = -(-count // limit)
    size = -(-count // chunks)
    if chunks > 1:
        size = -(-size // 8) * 8  # whole registers of a TPU
    return size


def pad_rows(x: Array, count: int) -> Array:
    """`x` [n ...] with `count` rows of zeros after the last."""
    return jnp.pad(x, ((0, count), *((0, 0),) * (x.ndim - 1))) if count else x


def wide_zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    """Zeros to sum up in what comes of arrays of that dtype: float32 or wider."""
    return jnp.zeros(shape, jnp.promote_types(dtype, jnp.float32))


def check_temperature(temperature: float | Array) -> bool:
    """Whether the temperature is known while the program is traced."""
    fixed = not isinstance(temperature, jax.core.Tracer)
    if fixed and not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return fixed
