"""Extracts the frozen features of a whole split to the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ssl_jax.core.errors import UserError

Encode = Callable[[Mapping[str, Any]], Mapping[str, jax.Array]]
Gather = Callable[[dict[str, Any]], Mapping[str, np.ndarray]]


def extract(
    encode: Encode,
    batches: Iterable[Mapping[str, Any]],
    *,
    targets: Sequence[str] = ("label",),
    gather: Gather | None = None,
) -> dict[str, np.ndarray]:
    """Runs an encoder over batches and collects what it returns as NumPy arrays.

    The device encodes a batch while the host copies the outputs of the previous one. If batches
    have `index`, rows are sorted by it, so that random draws from the rows do not depend on the
    order in which a loader, or several processes, returned them.

    Args:
      encode: a (jitted) function of a batch without its mask. It returns arrays with one row per
        example, e.g. `h` [n d] and `z` [n d'].
      batches: dicts of arrays with a leading dimension n. The optional `mask` bool [n] is False for
        padding rows, which are dropped. Rows are encoded independently, so padding does not affect
        the others.
      targets: names of arrays of a batch to return as well, if it has them. `index` int [n] is
        always returned.
      gather: converts a dict of device arrays to host arrays with the rows of all processes in the
        order of the global array. Required if arrays span several processes, e.g.
        `functools.partial(multihost_utils.process_allgather, tiled=True)`; all processes must then
        have the same number of batches. Default: `jax.device_get`.

    Returns:
      The encoder's outputs and the targets, all with m rows; floats as float32, integers as int32.

    Raises:
      UserError: there are no rows.
      ValueError: an output and its batch have different numbers of rows, or arrays span processes
        and `gather` is None.
    """
    collected: list[dict[str, np.ndarray]] = []
    pending = None
    for batch in batches:
        started = _start(encode, batch, targets)
        if pending is not None:
            collected.append(_finish(pending, gather))
        pending = started
    if pending is not None:
        collected.append(_finish(pending, gather))
    if not sum(len(next(iter(rows.values()))) for rows in collected):
        raise UserError("no example to extract features from: the split is empty")
    features = {name: np.concatenate([rows[name] for rows in collected]) for name in collected[0]}
    if "index" in features:
        order = np.argsort(features["index"], kind="stable")
        features = {name: array[order] for name, array in features.items()}
    return features


def _start(encode: Encode, batch: Mapping[str, Any], targets: Sequence[str]) -> dict[str, Any]:
    """Dispatches the encoder, without waiting for the device."""
    inputs = {name: array for name, array in batch.items() if name != "mask"}
    rows = len(next(iter(inputs.values())))
    outputs = dict(encode(inputs))
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise ValueError(
                f"features {name!r} have shape {array.shape} for a batch of {rows} examples; "
                "an encoder returns one row per example"
            )
    returned = {name: batch[name] for name in (*targets, "index", "mask") if name in batch}
    return outputs | returned


def _finish(arrays: dict[str, Any], gather: Gather | None) -> dict[str, np.ndarray]:
    """Waits for one batch, moves it to the host and drops its padding."""
    if gather is not None:
        arrays = dict(gather(arrays))
    else:
        for name, array in arrays.items():
            if isinstance(array, jax.Array) and not array.is_fully_addressable:
                raise ValueError(
                    f"{name!r} spans several processes; pass gather="
                    "functools.partial(multihost_utils.process_allgather, tiled=True)"
                )
        arrays = jax.device_get(arrays)
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    mask = arrays.pop("mask", None)
    if mask is not None:
        arrays = {name: array[mask.astype(bool)] for name, array in arrays.items()}
    return {name: array.astype(_host_dtype(array.dtype)) for name, array in arrays.items()}


def _host_dtype(dtype: np.dtype) -> type:
    # NumPy's kind of bfloat16 is "V", so test for kinds that are not floating.
    return np.int32 if dtype.kind in "biu" else np.float32
