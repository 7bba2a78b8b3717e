"""Accuracy and placement shared by the evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ssl_jax.core.arrays import Array

ROWS = "rows"  # the only axis of a mesh that splits rows
# Minimum number of rows per device, for which computation outweighs the cost of dispatch.
ROWS_PER_DEVICE = 4096


def rank_of_label(votes: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Rank of the true class of each row by its score, 0 = first; int [m].

    Args:
      votes: float [m c]. The lower of two classes with equal scores ranks first.
      label: int [m].
    """
    at_label = np.take_along_axis(votes, label[:, None], axis=1)  # [m 1]
    lower_class = np.arange(votes.shape[1])[None, :] < label[:, None]
    return ((votes > at_label) | ((votes == at_label) & lower_class)).sum(axis=1)


def mean_per_class(hits: np.ndarray, label: np.ndarray) -> float:
    """The mean over classes of the share of their examples that are hits; each class counts alike.

    Args:
      hits: bool [n].
      label: int [n]; classes without an example do not count.
    """
    count = np.bincount(label)
    of_class = np.bincount(label, weights=hits, minlength=len(count))
    return float(np.mean(of_class[count > 0] / count[count > 0]))


def of_logits(
    logits: Float[Array, "n c"], label: Int[Array, " n"], weight: Float[Array, " n"]
) -> tuple[Array, Array, Array]:
    """Weighted sums over a batch of top-1 hits, top-5 hits and cross-entropy, float32 [] each.

    Args:
      logits: the lower of two classes with equal logits ranks first.
      label: the classes; a negative one counts as 0 and should have no weight.
      weight: of the examples.
    """
    true = jnp.maximum(label, 0)[:, None]
    at_label = jnp.take_along_axis(logits, true, axis=1)
    lower_class = jnp.arange(logits.shape[1]) < true
    rank = jnp.sum((logits > at_label) | ((logits == at_label) & lower_class), axis=1)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), true, axis=1)[:, 0]
    return tuple(jnp.sum(weight * value) for value in (rank < 1, rank < 5, -log_p))


def measured_ranks(names: Iterable[str], num_classes: int | None) -> tuple[str, ...]:
    """`names` of metrics, without "top5" if there are at most five classes."""
    few = num_classes is not None and num_classes <= 5
    return tuple(name for name in names if not (few and name == "top5"))


def shared_mesh(rows: int | None, devices: Sequence[jax.Device] | None) -> jax.sharding.Mesh:
    """A mesh with one axis, "rows", over the devices that share `rows` rows.

    Default: the devices of all processes if there are enough rows for them (None: in any case),
    which must then all do the same; otherwise some devices of this process, see `row_mesh`.
    """
    if devices is None and (rows is None or enough_for_all(rows)):
        auto = (jax.sharding.AxisType.Auto,)
        return jax.sharding.Mesh(np.asarray(jax.devices()), (ROWS,), axis_types=auto)
    return row_mesh(rows or 0, devices)


def enough_for_all(rows: int) -> bool:
    """Whether there are enough rows for the devices of all processes."""
    return rows >= ROWS_PER_DEVICE * jax.device_count()


def row_mesh(rows: int, devices: Sequence[jax.Device] | None) -> jax.sharding.Mesh:
    """A mesh with one axis, "rows", over `devices`.

    Default: the devices of this process, or fewer for a small number of rows. Each process has all
    features and computes the same numbers, without communication between processes.
    """
    if devices is None:
        devices = jax.local_devices()[: max(1, rows // ROWS_PER_DEVICE)]
    auto = (jax.sharding.AxisType.Auto,)
    return jax.sharding.Mesh(np.asarray(devices), (ROWS,), axis_types=auto)
