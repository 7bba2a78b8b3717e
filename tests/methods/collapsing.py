"""Short runs on the digits that watch whether a representation collapses."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from ssl_jax.evals import collapse
from tests.methods.rows.images import LEARNING
from tests.methods.test_methods import batches, build

BATCH = 64


@dataclasses.dataclass(frozen=True)
class Watched:
    """What a run showed, step by step.

    Attributes:
      losses: [steps].
      std: [rows], spread of z.
      rank: [rows], effective rank of z.
      causes: what the collapse monitor reported.
      metrics: of the last step.
    """

    losses: np.ndarray
    std: np.ndarray
    rank: np.ndarray
    causes: list[str]
    metrics: dict[str, float]


def watch(row: str, *, steps: int, every: int = 2, **overrides: Any) -> Watched:
    """Trains the tiny method of that row for `steps` and asks the monitor every few of them."""
    overrides = LEARNING | overrides
    experiment, source = build(row, batch_size=BATCH, steps=steps, eval__online=False, **overrides)
    state, step = experiment.init_state(), experiment.compiled_train_step
    diagnose, monitor = jax.jit(collapse.diagnostics), collapse.Monitor()
    losses, rows, causes = [], [], []
    with jax.set_mesh(experiment.mesh):
        for i, batch in enumerate(batches(experiment, source, steps)):
            state, metrics, outputs = step(state, batch)
            losses.append(float(metrics["loss"]))
            if i % every == 0:
                values = {k: float(v) for k, v in diagnose(outputs["z"], outputs["h"]).items()}
                targets = {k: float(metrics[k]) for k in collapse.TARGETS if k in metrics}
                monitor, alarms = monitor.update(i, values | targets)
                causes += [alarm.cause for alarm in alarms if alarm.active]
                rows.append(values)
    return Watched(
        np.array(losses),
        np.array([row["std_z"] for row in rows]),
        np.array([row["effective_rank_z"] for row in rows]),
        causes,
        {name: float(value) for name, value in metrics.items()},
    )
