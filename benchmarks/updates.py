"""Runs train steps on a batch that stays on the device, for benchmarks of whole updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

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
