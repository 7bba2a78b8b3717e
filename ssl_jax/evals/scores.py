"""Accuracy and placement shared by the evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import jax
import numpy as np

# Below this many rows a further device costs more in dispatch than it computes.
_ROWS_PER_DEVICE = 4096


def rank_of_label(votes: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Place of each row's true class among its scores, 0 = first; int [m].

    Args:
      votes: float [m c]. Ties go to the lower class.
      label: int [m].
    """
    own = np.take_along_axis(votes, label[:, None], axis=1)  # [m 1]
    lower_class = np.arange(votes.shape[1])[None, :] < label[:, None]
    return ((votes > own) | ((votes == own) & lower_class)).sum(axis=1)


def measured_ranks(names: Iterable[str], num_classes: int | None) -> tuple[str, ...]:
    """`names` of metrics without "top5", if there are so few classes that it is not measured."""
    few = num_classes is not None and num_classes <= 5
    return tuple(name for name in names if not (few and name == "top5"))


def row_mesh(rows: int, devices: Sequence[jax.Device] | None) -> jax.sharding.Mesh:
    """A mesh with the one axis "rows" over `devices`.

    By default over this process's own devices, as many as `rows` are worth: every process holds
    all features and computes the same numbers, so no evaluation talks to another process.
    """
    if devices is None:
        devices = jax.local_devices()[: max(1, rows // _ROWS_PER_DEVICE)]
    auto = (jax.sharding.AxisType.Auto,)
    return jax.sharding.Mesh(np.asarray(devices), ("rows",), axis_types=auto)
