"""Checksums of arrays, independent of their sharding over devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Digest:
    """Checksum of one array.

    Attributes:
        value: 64 bits as 16 hexadecimal digits.
        finite: False if the array holds NaN or infinity. A scalar may be infinite, as the initial
            best value of `optax.contrib.reduce_on_plateau` is.
    """

    value: str
    finite: bool


def dispatch(arrays: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Starts the digests of named arrays on their devices and returns without waiting.

    The bits of an array are read as 32-bit words w_i (one per 8- or 16-bit number, two per 64-bit
    number), in row-major order of the global array. With h_i = mix(w_i XOR c*i), where mix is the
    bijective finaliser of MurmurHash3 and c is odd, the digest is the pair (sum h_i,
    sum (2i+1) h_i) modulo 2^32. A changed word always changes the first sum. Swapped elements,
    shifted rows and signs of zero stay undetected with probability 2^-64. Sums of integers are
    exact in any order, so each device sums its own part and one scalar is exchanged.

    Each array is a separate call, so equal shapes share one small compilation. A single program
    over the hundreds of arrays of a training state takes seconds to compile.
    """
    return {name: _digest(array) for name, array in arrays.items()}


def fetch(dispatched: Mapping[str, jax.Array]) -> dict[str, Digest]:
    """Waits for the digests that `dispatch` started."""
    for array in dispatched.values():
        array.copy_to_host_async()
    digests = {}
    for name, array in dispatched.items():
        first, second, bad = np.asarray(array).tolist()
        digests[name] = Digest(f"{first:08x}{second:08x}", not bad)
    return digests


@jax.jit
def _digest(array: jax.Array) -> jax.Array:
    """uint32 `[3]`: the two sums, and the number of elements that are not finite."""
    words = _words(array)
    position = _positions(words.shape)
    mixed = _mix(words ^ (position * jnp.uint32(0x9E3779B1)))
    bad = jnp.broadcast_to(_not_finite(array)[..., None], words.shape).astype(jnp.uint32)
    zero = jnp.uint32(0)
    # One reduction of three operands. Three separate reductions would read the array three times
    # and are not vectorised on CPU.
    sums = jax.lax.reduce(
        (mixed, mixed * (2 * position + 1), bad),
        (zero, zero, zero),
        lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)),
        tuple(range(words.ndim)),
    )
    return jnp.stack(sums)


def _words(array: jax.Array) -> jax.Array:
    """The bits of an array `[...]` as uint32 `[... words]`."""
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        parts = [_words(array.real), _words(array.imag)]
        return jnp.concatenate(parts, axis=-1)
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)[..., None]
    bits = 8 * array.dtype.itemsize
    if bits == 64:
        return jax.lax.bitcast_convert_type(array, jnp.uint32)
    unsigned = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{bits}"))
    return unsigned.astype(jnp.uint32)[..., None]


def _positions(shape: tuple[int, ...]) -> jax.Array:
    """Row-major index of each element modulo 2^32.

    It is built from an iota along each dimension, not by reshaping, so it is sharded like the
    array.
    """
    position = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        index = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        position += index * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return position


def _mix(h: jax.Array) -> jax.Array:
    """The 32-bit finaliser of MurmurHash3 (Appleby, public domain)."""
    h ^= h >> 16
    h *= jnp.uint32(0x85EBCA6B)
    h ^= h >> 13
    h *= jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


def _not_finite(array: jax.Array) -> jax.Array:
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return jnp.zeros(array.shape, bool)
    return jnp.isnan(array) if array.ndim == 0 else ~jnp.isfinite(array)
