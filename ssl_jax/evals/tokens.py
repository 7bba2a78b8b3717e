"""Tokens of images in batches, for evaluations that train a classifier of all of them.

The tokens are the patch tokens of a ViT or the positions of a convolutional feature map. If those
of train fit into host memory, they are computed once and batches are taken from memory. Otherwise
the images are encoded again for each batch; the batches are the same.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.layer_outputs import grid_shape
from ssl_jax.core.method import DataSpec, Method
from ssl_jax.evals.known import Known
from ssl_jax.evals.model import Model
from ssl_jax.modalities.image import IMAGE


class Tokens(NamedTuple):
    """A batch: tokens float [b p d], labels int32 [b], weights float32 [b]."""

    x: jax.Array
    label: jax.Array
    weight: jax.Array


# Indices of examples, a multiple of the batch size or filled up -> batches in this order.
Read = Callable[[np.ndarray], Iterator[Tokens]]


def applies(method: Method, spec: DataSpec) -> bool:
    """Whether the data are images."""
    del method
    return spec.modality == IMAGE.name


def train_examples(prober: Any) -> np.ndarray:
    """Indices of the train examples that probes are fitted on, increasing int [n]."""
    subset = prober.train_subset()
    return np.arange(len(prober.train)) if subset is None else subset


def whole_batch(batch_size: int, count: int, mesh: jax.sharding.Mesh) -> int:
    """At most `batch_size` of `count` examples, rounded up to divide over the devices."""
    shards = parallel.batch_shards(mesh)
    return -(-min(batch_size, count) // shards) * shards


def readers(
    model: Model,
    prober: Any,
    feature: str,
    *,
    examples: np.ndarray,
    size: int,
    max_gib: float,
    evaluation: str,
) -> tuple[Read, Read, tuple[int, int]]:
    """Functions that read batches of the train split and of the test split.

    Args:
      model: its output `feature` is [n p d].
      prober: provides the splits.
      feature: name of the output with the tokens.
      examples: indices into train, sorted; those that may be read.
      size: examples of a batch, on all devices.
      max_gib: host memory for the tokens of train; beyond it, images are encoded for each batch.
      evaluation: name of the section in which `feature` is set, for the error message.

    Returns:
      For train, for test, and the shape (p, d) of the tokens of an example.

    Raises:
      UserError: the model has no such output.
    """

    def encode(source: Any, indices: np.ndarray) -> Iterator[Tokens]:
        for batch in prober.batches(source, indices, batch_size=size):
            inputs = {name: array for name, array in batch.items() if name != "mask"}
            x, label = patches(model, inputs, feature, evaluation=evaluation), batch["label"]
            yield Tokens(x, label, _weight(label, batch["mask"]))

    read_test = functools.partial(encode, prober.test)
    read_train: Read = functools.partial(encode, prober.train)
    shape = next(read_train(examples[:1])).x.shape[1:]
    if gib(len(examples), shape) <= max_gib:
        read_train = _in_memory(read_train, examples, prober.mesh, size)
    return read_train, read_test, shape


def patches(model: Model, batch: Any, feature: str, *, evaluation: str) -> jax.Array:
    """The output `feature` of a batch, [n p d].

    Args:
      model: the model.
      batch: without its mask.
      feature: name of the output.
      evaluation: name of the section in which `feature` is set, for the error message.

    Raises:
      UserError: the model has no such output, or it is no output with one vector a patch.
    """
    outputs = model.outputs(batch, (feature,))
    if feature not in outputs or outputs[feature].ndim != 3:
        raise UserError(
            f"eval.{evaluation}.feature is {feature!r}, which is no output with one vector a "
            "patch; use last1/patches, or layer1/patches, stage1/patches, ..."
        )
    return outputs[feature]


@jax.jit
def _weight(label: jax.Array, mask: jax.Array) -> jax.Array:
    return (mask & (label >= 0)).astype(jnp.float32)


def _in_memory(read: Read, examples: np.ndarray, mesh: jax.sharding.Mesh, size: int) -> Read:
    """Reads the examples once, and returns a function that takes batches from host memory."""
    arrays: list[np.ndarray] = []
    for first, batch in zip(range(0, len(examples), size), read(examples), strict=True):
        batch = parallel.gather(batch)
        arrays = arrays or [np.empty((len(examples), *a.shape[1:]), a.dtype) for a in batch]
        for array, part in zip(arrays, batch, strict=True):
            array[first : first + size] = part[: len(examples) - first]
    x, label, weight = arrays
    local = parallel.local_rows(mesh, size)

    def take(indices: np.ndarray) -> Iterator[Tokens]:
        rows = np.searchsorted(examples, indices)
        for first in range(0, len(rows), size):
            batch_rows = rows[first : first + size]
            padding = size - len(batch_rows)
            chosen = np.pad(batch_rows, (0, padding))[local]
            real = (np.arange(size) < size - padding)[local]
            batch = Tokens(x[chosen], label[chosen], weight[chosen] * real)
            yield parallel.to_global(batch, mesh, local, size)

    return take


def grid(count: int, image: tuple[int, ...], feature: str, *, evaluation: str) -> tuple[int, int]:
    """Rows and columns of the positions of an output.

    Args:
      count: number of positions.
      image: shape of the images, (h, w, c).
      feature: name of the output.
      evaluation: name of the section in which `feature` is set, for the error message.

    Raises:
      UserError: the positions form no grid.
    """
    height, width = image[:2]
    shape = grid_shape(count, height, width)
    if shape is None:
        raise UserError(
            f"the {count} positions of eval.{evaluation}.feature={feature!r} form no grid on "
            f"images of {height}x{width}; take another stage, e.g. stage1/patches"
        )
    return shape


def endless_passes(examples: np.ndarray, length: int, seed: int) -> np.ndarray:
    """The first `length` of endless random passes over the examples."""
    rng = np.random.default_rng(seed)
    passes = -(-length // len(examples))
    return np.concatenate([rng.permutation(examples) for _ in range(passes)])[:length]


def gib(examples: int, shape: Sequence[int]) -> float:
    """Host memory that float32 tokens of this shape take, in GiB."""
    return examples * math.prod(shape) * 4 / 2**30


def memory_note(known: Known, feature: str, max_gib: float, evaluation: str) -> str:
    """A note if the tokens of train do not fit into `max_gib`, else ""."""
    size = gib(known.num_train, known.outputs[feature].shape[1:])
    if size <= max_gib:
        return ""
    return (
        f"{evaluation}: the tokens of {known.num_train:,} train examples take {size:,.1f} GiB, "
        f"more than eval.{evaluation}.max_gib={max_gib:g}; the images are encoded again in every "
        "epoch of the probe (eval.max_train_examples takes fewer)"
    )


def means(parts: Sequence[tuple[jax.Array, ...]], no_label: str) -> list[np.ndarray]:
    """Means over all examples from sums over batches, float64.

    Args:
      parts: for each batch weighted sums, and as the last one the sum of the weights.
      no_label: the message if no example has a weight.

    Raises:
      UserError: no example has a weight.
    """
    *totals, weight = (
        np.sum(values, axis=0, dtype=np.float64) for values in zip(*parts, strict=True)
    )
    if not weight:
        raise UserError(no_label)
    return [total / weight for total in totals]
