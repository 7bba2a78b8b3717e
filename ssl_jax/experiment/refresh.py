"""Buffers that are recomputed from the whole training set: clusters, the first fill of a bank.

A method says how often (`Method.refresh_every`) and how (`Method.refresh`). A refresh that is due
at step s runs before update s + 1 and depends on the state, the seed and s alone, so a run that is
restored at s computes it again.
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

# Folded into the key of a step, whose first three splits are those of the train step.
_REFRESH = 4

Function = Callable[[Weights, Array, Any], dict[str, Array]]


class Refresher:
    """Recomputes the buffers of a run's method when they are due.

    Args:
      experiment: what runs.
      source: the training data.
    """

    def __init__(self, experiment: Experiment, source: data.Source):
        self._experiment, self._source = experiment, source
        self._every = experiment.method.refresh_every(experiment.length)

    def due(self, step: int) -> bool:
        """Whether the buffers are to be recomputed after `step` updates."""
        return bool(self._every) and step % self._every == 0

    def __call__(self, state: TrainState, step: int) -> TrainState:
        """The state with recomputed buffers. Call it on every process, in the ambient mesh.

        Raises:
          ValueError: the method returns an unknown buffer, or one of another shape or dtype.
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

    def _encode_all(self, w: Weights, example_key: Array, function: Function) -> dict[str, Array]:
        """`function` of every training example, see `Method.refresh`."""

        @jax.jit
        def apply(w: Weights, batch: Any) -> dict[str, Array]:
            fold_in = functools.partial(jax.random.fold_in, example_key)
            rows = function(w, jax.vmap(fold_in)(batch["index"]), batch)
            return {**rows, "mask": batch["mask"]}

        experiment, source = self._experiment, self._source
        sharding = parallel.batch_sharding(experiment.mesh)
        place = jax.jit(_place, donate_argnums=0, out_shardings=sharding)
        everything = None
        batches = device_batches(experiment.config, source, experiment.mesh)
        for number, batch in enumerate(batches):
            part = apply(w, batch)
            size = len(part["mask"])
            if everything is None:
                allocate = functools.partial(_zeros, part, -(-len(source) // size))
                everything = jax.jit(allocate, out_shardings=sharding)()
            everything = place(everything, part, number * size)
        return everything


def _zeros(part: dict[str, Array], count: int) -> dict[str, Array]:
    return jax.tree.map(lambda x: jnp.zeros((count * len(x), *x.shape[1:]), x.dtype), part)


def _place(everything: dict[str, Array], part: dict[str, Array], start: Array) -> dict[str, Array]:
    def put(whole: Array, rows: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(whole, rows, start, axis=0)

    return jax.tree.map(put, everything, part)
