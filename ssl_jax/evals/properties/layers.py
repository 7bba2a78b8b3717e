"""The layers of an encoder of images, each as one vector an image, for probes over depth."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.arrays import Array
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.layer_outputs import grid_shape
from ssl_jax.evals.model import Model


def names(model: Model, batch: Mapping[str, Any]) -> tuple[str, ...]:
    """The layers of the encoder from the first one on; empty if the method has none.

    Args:
      model: the model; raw inputs have no layers.
      batch: shapes of a batch.
    """
    if model.method is None or model.layer_outputs is None:
        return ()
    layers = jax.eval_shape(model.method.layers, model.weights, batch)
    return tuple(sorted(layers, key=lambda name: int(re.sub(r"\D", "", name))))


def choose(all_names: Sequence[str], chosen: Sequence[str] | None) -> tuple[str, ...]:
    """The layers that `eval.properties.layers` names, in the order of the encoder.

    Raises:
      UserError: the encoder lacks one.
    """
    if chosen is None:
        return tuple(all_names)
    for name in chosen:
        if name not in all_names:
            known = ", ".join(all_names) or "no layers"
            raise UserError(
                f"eval.properties.layers has {name!r}, but this encoder has {known}."
                f"{nearest(name, all_names)}"
            )
    return tuple(name for name in all_names if name in chosen)


def encoder(
    model: Model, layers: Sequence[str], shape: tuple[int, ...], cells: int
) -> Callable[[Any], dict[str, Array]]:
    """A function batch -> {layer: float32 [n d]}.

    The positions of a map are averaged over a grid of `cells` x `cells`, so that the vector still
    tells where something is; tokens that form no grid are averaged over all.

    Args:
      model: the model.
      layers: their names.
      shape: (h, w, c) of the images.
      cells: of the grid in each direction; 1: the mean over all positions.
    """
    outputs = tuple(f"{name}/patches" for name in layers)

    def encode(batch: Any) -> dict[str, Array]:
        out = model.layer_outputs(batch, outputs)
        return {
            name: pooled(out[f"{name}/patches"], shape=tuple(shape[:2]), cells=cells)
            for name in layers
        }

    return encode


@functools.partial(jax.jit, static_argnames=("shape", "cells"))
def pooled(patches: Array, *, shape: tuple[int, int], cells: int) -> Array:
    """Averages positions [n p d] over a grid of cells: [n cells * cells * d].

    Args:
      patches: positions in row-major order.
      shape: height and width of the images.
      cells: of the grid in each direction, or as many as there are positions.
    """
    n, count, width = patches.shape
    grid = grid_shape(count, *shape)
    if grid is None:
        return jnp.mean(patches, axis=1)
    rows, columns = (_averages(size, min(cells, size)) for size in grid)
    x = patches.reshape(n, *grid, width)
    x = jnp.einsum("ir,jc,nrcd->nijd", rows, columns, x, precision=jax.lax.Precision.HIGHEST)
    return x.reshape(n, -1)


def _averages(size: int, cells: int) -> np.ndarray:
    """Averages over parts of an axis of about equal length, [cells size]."""
    out = np.zeros((cells, size), np.float32)
    for cell, part in enumerate(np.array_split(np.arange(size), cells)):
        out[cell, part] = 1 / len(part)
    return out
