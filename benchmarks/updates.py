"""Runs train steps on a batch that stays on the device, for benchmarks of whole updates."""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ssl_jax.experiment.build import Experiment


def repeated(experiment: Experiment, batch: Mapping[str, Any], steps: int) -> Callable[[], float]:
    """A function that continues training for `steps` updates and returns the last loss.

    Args:
      experiment: the experiment; its step is compiled at once.
      batch: host arrays of a global batch.
      steps: number of updates in a call.
    """
    step = experiment.compiled_train_step
    shardings = {name: array.sharding for name, array in experiment.abstract_batch().items()}
    batch, state = jax.device_put(dict(batch), shardings), experiment.init_state()

    def call() -> float:
        nonlocal state
        for _ in range(steps):
            state, values, _ = step(state, batch)
        return float(values["loss"])

    return call


def random_images(experiment: Experiment, count: int) -> dict[str, Any]:
    """A host batch of `count` random images with labels below 10."""
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(0, 255 if name == "image" else 10, array.shape).astype(array.dtype)
        for name, array in experiment.spec.batch(count).items()
    }


def peak_mib() -> float:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
