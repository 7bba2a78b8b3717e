"""Recomputes buffers from the whole training set, e.g. clusters or the first fill of a bank.

A method defines the interval (`Method.refresh_every`) and the function (`Method.refresh`). A
refresh that is due at step s runs before update s + 1. It depends only on the state, the seed and
s, so a run that is restored at s repeats it exactly.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax import data, parallel
from ssl_jax.core.method import Array, Weights
from ssl_jax.experiment.build import Experiment
from ssl_jax.experiment.epoch import device_batches
from ssl_jax.experiment.train_step import TrainState

# Folded into the key of a step; the train step uses the first three splits and 3.
_REFRESH = 4

Function = Callable[[Weights, Array, Any], dict[str, Array]]


class Refresher:
    """Recomputes the buffers of a run's method when a refresh is due.

    Args:
      experiment: the experiment that trains.
      source: the training data.
    """

    def __init__(self, experiment: Experiment, source: data.Source):
        self._experiment, self._source = experiment, source
        self._every = experiment.method.refresh_every(experiment.length)

    def due(self, step: int) -> bool:
        """Whether a refresh is due after `step` updates."""
        return bool(self._every) and step % self._every == 0

    def __call__(self, state: TrainState, step: int) -> TrainState:
        """The state with recomputed buffers. Call it in every process, with the mesh set.

        Raises:
          ValueError: the method returns an unknown buffer, or a buffer of another shape or dtype.
        """
        step_key = jax.random.fold_in(jax.random.wrap_key_data(state.key), step)
        key, example_key = jax.random.split(jax.random.fold_in(step_key, _REFRESH))
        encode_all = functools.partial(self._encode_all, state.weights, example_key)
        changed = self._experiment.method.refresh(state.weights, encode_all, key=key, step=step)
        buffers = dict(state.buffers)
        for name, value in changed.items():
            shapes = [
                jax.tree.map(lambda x: (x.shape, x.dtype), tree)
                for tree in (buffers.get(name), value)
            ]
            if name not in buffers or shapes[0] != shapes[1]:
                raise ValueError(
                    f"refresh returns buffer {name!r} of {shapes[1]}; the state has {shapes[0]}"
                )
            buffers[name] = value
        return state.replace(
            buffers=jax.device_put(buffers, self._experiment.state_shardings.buffers)
        )

    def _encode_all(
        self, w: Weights, example_key: Array, function: Function, *, total: bool = False
    ) -> dict[str, Array]:
        """Applies `function` to every training example, see `Method.refresh`."""

        @jax.jit
        def apply(w: Weights, batch: Any) -> dict[str, Array]:
            fold_in = functools.partial(jax.random.fold_in, example_key)
            rows = function(w, jax.vmap(fold_in)(batch["index"]), batch)
            return _sums(rows, batch["mask"]) if total else {**rows, "mask": batch["mask"]}

        experiment, source = self._experiment, self._source
        sharding = parallel.batch_sharding(experiment.mesh)
        place = jax.jit(_place, donate_argnums=0, out_shardings=sharding)
        results = None
        batches = device_batches(experiment.config, source, experiment.mesh)
        for number, batch in enumerate(batches):
            part = apply(w, batch)
            if total:
                results = part if results is None else _add(results, part)
                continue
            size = len(part["mask"])
            if results is None:
                allocate = functools.partial(_zeros, part, -(-len(source) // size))
                results = jax.jit(allocate, out_shardings=sharding)()
            results = place(results, part, number * size)
        return results


def _sums(rows: dict[str, Array], mask: Array) -> dict[str, Array]:
    """Sums of rows [n ...] where the mask is true."""

    def total(x: Array) -> Array:
        return jnp.sum(x, axis=0, where=mask.reshape(-1, *(1,) * (x.ndim - 1)))

    return jax.tree.map(total, rows)


@jax.jit
def _add(a: dict[str, Array], b: dict[str, Array]) -> dict[str, Array]:
    return jax.tree.map(jnp.add, a, b)


def _zeros(part: dict[str, Array], count: int) -> dict[str, Array]:
    return jax.tree.map(lambda x: jnp.zeros((count * len(x), *x.shape[1:]), x.dtype), part)


def _place(results: dict[str, Array], part: dict[str, Array], start: Array) -> dict[str, Array]:
    def put(array: Array, rows: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(array, rows, start, axis=0)

    return jax.tree.map(put, results, part)
