"""Searches many rows that are split over devices: exact, with the memory of a part on each device.

The rows that are searched (a bank, a gallery) are split over the devices of all processes; each
process puts only its own part on its devices. Queries come in blocks, which every device compares
with its rows; what is found is merged over the devices, so every process has the same result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float

from ssl_jax.core.arrays import Array
from ssl_jax.core.errors import UserError
from ssl_jax.evals.scores import ROWS, shared_mesh

SIMILARITIES = 2**27  # similarities in a block on a device: 512 MiB of float32
_ON_CPU = 2**21  # the same where the device's memory is the host's, from 64 queries on


def split_rows(
    x: np.ndarray,
    mesh: Mesh,
    *,
    fill: float = 0,
    prepare: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> jax.Array:
    """Splits the rows of an array over the devices of `shared_mesh`, each an equal number.

    Args:
      x: [n ...], the same on every process.
      mesh: of `shared_mesh`.
      fill: value of the rows after the n-th, which make the number divide.
      prepare: what is done with the rows of a device [r ...] before they are put there.

    Returns:
      [m ...], m the next multiple of the number of devices.
    """
    n = len(x)
    per_device = -(-n // mesh.size)

    def part(index: tuple[slice, ...]) -> np.ndarray:
        rows = index[0]
        start, stop, _ = rows.indices(per_device * mesh.size)
        own = prepare(np.asarray(x[start : min(stop, n)]))
        missing = stop - start - len(own)
        if not missing:
            return own
        return np.pad(own, ((0, missing), *((0, 0),) * (own.ndim - 1)), constant_values=fill)

    shape = (per_device * mesh.size, *np.shape(x)[1:])
    return jax.make_array_from_callback(shape, NamedSharding(mesh, P(ROWS)), part)


def neighbours(
    queries: Float[Array, "m d"],
    bank: Float[Array, "n d"],
    k: int,
    *,
    exclude_self: bool = False,
    devices: Sequence[jax.Device] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of the bank of highest cosine similarity to each query, best first.

    The rows of the bank are split over the devices; queries are processed in blocks. Similarities
    are float32 at the highest matmul precision. Equal similarities are ordered by bank row.

    Args:
      queries: float [m d], not necessarily normalised.
      bank: float [n d].
      k: at most n, or n - 1 with `exclude_self`.
      exclude_self: query i is bank row i, which is not its own neighbour.
      devices: see `shared_mesh`.

    Returns:
      similarity float32 [m k] and bank row int32 [m k].

    Raises:
      UserError: k is out of range, or exclude_self with different numbers of rows.
    """
    m, n = len(queries), len(bank)
    if exclude_self and m != n:
        raise UserError(f"exclude_self compares a set with itself, not {m} with {n} examples")
    if not 1 <= k <= n - exclude_self:
        raise UserError(f"k is {k}; it must be between 1 and {n - exclude_self}")
    mesh = shared_mesh(n, devices)
    per_device = -(-n // mesh.size)
    block = _queries_at_once(m, per_device, mesh)
    with jax.set_mesh(mesh):
        bank = normalize(split_rows(bank, mesh, prepare=_float32))
        results = []
        for first in range(0, m, block):
            # Blocks all have the same size, to compile once; surplus rows are dropped below.
            rows = np.minimum(np.arange(first, first + block), m - 1).astype(np.int32)
            nearest = _search(
                _float32(queries[rows]), rows, bank, np.int32(n),
                k=k, exclude_self=exclude_self, mesh=mesh,
            )  # fmt: skip
            results.append(nearest)
            if len(results) > 1:  # one block ahead: the host does not queue up all of them
                results[-2] = jax.device_get(results[-2])
        results = jax.device_get(results)
    similarity, index = (np.concatenate(parts)[:m] for parts in zip(*results, strict=True))
    return similarity, index


def _queries_at_once(queries: int, rows: int, mesh: Mesh) -> int:
    """Queries that are compared with `rows` rows on each device at a time."""
    few = SIMILARITIES // rows
    if mesh.devices.flat[0].platform == "cpu":
        few = min(few, max(64, _ON_CPU // rows))
    return int(np.clip(few, 1, min(queries, 1024)))


def _float32(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32)


@jax.jit
def normalize(x: jax.Array) -> jax.Array:
    """Rows divided by their length, float32 [n d]; rows of zeros stay."""
    x = x.astype(jnp.float32)
    # Scaling by the largest entry first: the squares of large or tiny features stay in range.
    x = x / jnp.maximum(jnp.max(jnp.abs(x), axis=-1, keepdims=True), jnp.finfo(x.dtype).tiny)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 0.5)


@functools.partial(jax.jit, static_argnames=("k", "exclude_self", "mesh"))
def _search(
    queries: jax.Array,
    query_row: jax.Array,
    bank: jax.Array,
    bank_rows: jax.Array,
    *,
    k: int,
    exclude_self: bool,
    mesh: Mesh,
) -> tuple[jax.Array, jax.Array]:
    def local(queries, query_row, bank, bank_rows):
        rows = bank.shape[0]
        row = jax.lax.axis_index(ROWS) * rows + jnp.arange(rows, dtype=jnp.int32)
        similarity = jnp.einsum("qd,rd->qr", queries, bank, precision=jax.lax.Precision.HIGHEST)
        allowed = (row < bank_rows)[None, :]
        if exclude_self:
            allowed &= row[None, :] != query_row[:, None]
        similarity = jnp.where(allowed, similarity, -jnp.inf)
        best, column = jax.lax.top_k(similarity, min(k, rows))
        # Device order is row order and top_k is stable, so ties stay ordered by bank row.
        best = jax.lax.all_gather(best, ROWS, axis=1, tiled=True)
        row = jax.lax.all_gather(row[column], ROWS, axis=1, tiled=True)
        best, column = jax.lax.top_k(best, k)
        return best, jnp.take_along_axis(row, column, axis=1)

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(), P(), P(ROWS), P()),
        out_specs=(P(), P()),
        check_vma=False,  # the gathered candidates are equal on all devices
    )(normalize(queries), query_row, bank, bank_rows)
