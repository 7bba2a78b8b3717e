"""Shared parts of losses that compute similarities in tiles: products, tile sizes, logarithms.

The similarity matrix is never stored: its tiles are computed in the forward pass and again in the
backward pass.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array

# Similarities of unit vectors at temperature t lie in [-1/t, 1/t]. Up to this bound a constant
# shift by 1/t is safe for every row: exp(-2/t) and its inverse are normal float32 numbers.
MAX_CONSTANT_SHIFT = 40.0
# The similarity of masked pairs. Finite, so that a row whose columns are all masked has no NaN.
MASKED = float(jnp.finfo(jnp.float32).min) / 2


def similarity(x: Array, y: Array) -> Array:
    """Dot products [m d], [n d] -> [m n], accumulated in float32 or wider.

    bfloat16 inputs are multiplied in bfloat16. float32 inputs are multiplied in full precision:
    otherwise a TPU would round them to bfloat16, and a temperature of 0.1 makes that error ten
    times larger.
    """
    return product("id,jd->ij", x, y)


def tile(rows: Array, columns: Array, masked: Array | None) -> Array:
    """The similarities [r c] of `rows` and `columns`; MASKED where `masked` [r c] is true."""
    s = similarity(rows, columns)
    return s if masked is None else jnp.where(masked, MASKED, s)


def product(equation: str, x: Array, y: Array) -> Array:
    """An einsum in the dtype of `y`, to which `x` is cast; returns float32 or wider."""
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
    """Returns log(total) + shift, and MASKED where total is 0."""
    nonempty = total > 0
    return jnp.where(nonempty, shift + jnp.log(jnp.where(nonempty, total, 1)), MASKED)


def chunk_size(count: int, limit: int) -> int:
    """Rows in a chunk when `count` rows are divided evenly into chunks of at most about `limit`."""
    chunks = -(-count // limit)
    size = -(-count // chunks)
    if chunks > 1:
        size = -(-size // 8) * 8  # a multiple of the rows of a TPU register
    return size


def pad_rows(x: Array, count: int) -> Array:
    """Appends `count` rows of zeros to `x` [n ...]."""
    return jnp.pad(x, ((0, count), *((0, 0),) * (x.ndim - 1))) if count else x


def wide_zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    """Zeros to accumulate products of arrays of `dtype` in: float32 or wider."""
    return jnp.zeros(shape, jnp.promote_types(dtype, jnp.float32))


def check_temperature(temperature: float | Array) -> bool:
    """Checks that the temperature is positive, if its value is known at trace time.

    Returns:
      Whether the value is known at trace time.

    Raises:
      ValueError: the temperature is not positive.
    """
    is_known = not isinstance(temperature, jax.core.Tracer)
    if is_known and not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return is_known
