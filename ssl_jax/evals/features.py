"""Extracts the frozen features of a whole split to the host, or to each host its own rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.evals.split_rows import SplitRows

Encode = Callable[[Mapping[str, Any]], Mapping[str, jax.Array]]
Gather = Callable[[dict[str, Any]], Mapping[str, np.ndarray]]
# A global array [n ...] -> (numbers, values) of the rows of this process.
OwnRows = Callable[[Any], tuple[np.ndarray, np.ndarray]]


def extract(
    encode: Encode,
    batches: Iterable[Mapping[str, Any]],
    *,
    targets: Sequence[str] = ("label",),
    gather: Gather | None = None,
    split: Collection[str] = (),
    own_rows: OwnRows | None = None,
) -> dict[str, Any]:
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
      split: outputs of the encoder of which each process keeps only its own rows.
      own_rows: gives these rows, such as `ssl_jax.parallel.own_rows` on a mesh. Required with
        `split`.

    Returns:
      The encoder's outputs and the targets, all with m rows; floats as float32, integers as int32.
      The outputs in `split` are `SplitRows`.

    Raises:
      UserError: there are no rows.
      ValueError: an output and its batch have different numbers of rows, or arrays span processes
        and `gather` is None.
    """
    collected: list[dict[str, Any]] = []
    pending = None
    for batch in batches:
        started = _start(encode, batch, targets)
        if pending is not None:
            collected.append(_finish(pending, gather, split, own_rows))
        pending = started
    if pending is not None:
        collected.append(_finish(pending, gather, split, own_rows))
    counts = [_rows_of(rows) for rows in collected]
    if not sum(counts):
        raise UserError("no example to extract features from: the split is empty")
    whole = [name for name in collected[0] if name not in split]
    features: dict[str, Any] = {
        name: np.concatenate([rows[name] for rows in collected]) for name in whole
    }
    order = np.argsort(features["index"], kind="stable") if "index" in features else None
    if order is not None:
        features = {name: array[order] for name, array in features.items()}
    for name in collected[0].keys() & set(split):
        features[name] = _joined([rows[name] for rows in collected], counts, order)
    return features


def _joined(parts: list[SplitRows], counts: list[int], order: np.ndarray | None) -> SplitRows:
    """The rows of all batches; `order` has the numbers of all rows in their new order."""
    firsts = np.cumsum([0, *counts[:-1]])
    numbers = np.concatenate(
        [part.numbers + first for part, first in zip(parts, firsts, strict=True)]
    )
    values = np.concatenate([part.values for part in parts])
    if order is not None:
        place = np.empty(len(order), int)
        place[order] = np.arange(len(order))
        numbers = place[numbers]
        by_number = np.argsort(numbers)
        numbers, values = numbers[by_number], values[by_number]
    return SplitRows(values, numbers, sum(counts))


def _rows_of(rows: Mapping[str, Any]) -> int:
    return len(next(iter(rows.values()))) if rows else 0


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


def _finish(
    arrays: dict[str, Any], gather: Gather | None, split: Collection[str], own_rows: OwnRows | None
) -> dict[str, Any]:
    """Waits for one batch, moves it to the host and drops its padding."""
    # In one order on all processes: `own_rows` may be a program of all of them.
    kept_apart = {name: arrays.pop(name) for name in sorted(split) if name in arrays}
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
    out: dict[str, Any] = {
        name: array.astype(_host_dtype(array.dtype)) for name, array in arrays.items()
    }
    for name, array in kept_apart.items():
        assert own_rows is not None
        numbers, values = own_rows(array)
        rows = SplitRows(values.astype(_host_dtype(values.dtype)), numbers, len(array))
        out[name] = rows if mask is None else rows.kept(mask.astype(bool))
    return out


def _host_dtype(dtype: np.dtype) -> type:
    # NumPy's kind of bfloat16 is "V", so test for kinds that are not floating.
    return np.int32 if dtype.kind in "biu" else np.float32
