"""Converts the rows of one process to arrays over all devices, and back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from ssl_jax.parallel.mesh import batch_sharding


def to_global(local_batch: Any, mesh: Mesh, rows: np.ndarray, global_batch: int) -> Any:
    """Puts a host batch on the devices, its leading dimension split over `data` and `fsdp`.

    Args:
        local_batch: tree of NumPy arrays `[len(rows) ...]`, this process's rows of the batch.
        mesh: mesh of all devices.
        rows: the global row of each local one, as `local_rows` gives them.
        global_batch: rows over all processes.

    Returns:
        The same tree of `jax.Array`s `[global_batch ...]`.

    Raises:
        ValueError: an array's leading dimension is not `len(rows)`.
    """
    for path, array in jax.tree_util.tree_leaves_with_path(local_batch):
        if array.shape[:1] != (len(rows),):
            raise ValueError(
                f"batch{jax.tree_util.keystr(path)} has shape {array.shape}; this process supplies "
                f"{len(rows)} of {global_batch} rows"
            )
    sharding = batch_sharding(mesh)
    if sharding.is_fully_addressable:
        return jax.device_put(local_batch, sharding)

    def put(array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(
            (global_batch, *array.shape[1:]), sharding, _reader(array, rows, global_batch)
        )

    return jax.tree.map(put, local_batch)


def _reader(
    array: np.ndarray, rows: np.ndarray, global_batch: int
) -> Callable[[tuple[slice, ...]], np.ndarray]:
    """Looks up a block of consecutive global rows among the local ones."""

    def read(index: tuple[slice, ...]) -> np.ndarray:
        start, stop, _ = index[0].indices(global_batch)
        first = np.searchsorted(rows, start)
        return array[first : first + stop - start]

    return read


def own_rows(array: Any, mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a global array that belong to this process; each belongs to one process.

    Every process must call it.

    Args:
        array: `[n ...]`, global, or the same on every process.
        mesh: mesh of all devices.

    Returns:
        (numbers, values): the numbers of the rows, int64 `[m]`, increasing; and the rows, NumPy
        `[m ...]`.
    """
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        array = np.asarray(array)
        numbers = np.array_split(np.arange(len(array)), jax.process_count())[jax.process_index()]
        return numbers, array[numbers]
    sharding = batch_sharding(mesh)
    if not array.sharding.is_equivalent_to(sharding, array.ndim):
        array = _placed(sharding)(array)
    parts = {}
    for shard in array.addressable_shards:
        if shard.replica_id == 0:  # neighbours along `tensor` have the same rows
            start, stop, _ = shard.index[0].indices(len(array))
            parts[start] = np.arange(start, stop), np.asarray(shard.data)
    numbers = [np.zeros(0, int)] + [parts[start][0] for start in sorted(parts)]
    values = [np.zeros((0, *array.shape[1:]), array.dtype)]
    values += [parts[start][1] for start in sorted(parts)]
    return np.concatenate(numbers), np.concatenate(values)


@functools.cache
def _placed(sharding: jax.sharding.Sharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda x: x, out_shardings=sharding)


def gather(array: Any) -> Any:
    """The whole of a global array, or of a tree of them, as NumPy on every process.

    Every process must call it.
    """

    def fetch(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return jax.tree.map(fetch, array)
