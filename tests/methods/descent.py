"""A step of plain descent, whose difference is the gradient, on any number of devices."""

import jax
import numpy as np
import optax

from ssl_jax import parallel
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment import train_step


def begin(method, batch):
    """Plain descent, and the first state of the method, on the host."""
    tx = optax.sgd(1.0)
    return tx, jax.device_get(jax.jit(train_step.make_init(method, tx))(0, batch))


def descend(method, tx, first, batch, *, devices, micro_batch_size):
    """Metrics and parameters, by path, after a step from `first` on a whole batch of rows."""
    size = len(batch["index"])
    mesh = parallel.make_mesh(devices=jax.devices()[:devices])
    batch = parallel.to_global(batch, mesh, np.arange(size), size)
    step = train_step.make_train_step(method, tx, micro_batch_size=micro_batch_size)
    with jax.set_mesh(mesh):
        state = jax.device_put(first, parallel.replicated(mesh))
        state, metrics, _ = jax.jit(step)(state, batch)
    return metrics, by_path(state.params)
