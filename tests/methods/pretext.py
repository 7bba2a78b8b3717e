"""One step of a new net of a pretext task, for the tests of several tasks."""

import jax
import jax.numpy as jnp

from ssl_jax.core.method import loss_and_aux
from tests.methods.contract import views_of


def first_step(experiment, source, count, *, train=True):
    """(weights, views of `count` images, loss, aux, logits): the loss of a new net.

    The logits are those of `predict` in training mode, or with `train=False` in evaluation mode.
    """
    method, w = experiment.method, experiment.init_state().weights
    keys = jax.random.split(jax.random.key(0), count)
    views = views_of(method, keys, source.batch(range(count)))

    @jax.jit
    def both(w, views):
        key, step = jax.random.key(1), jnp.int32(0)
        loss, aux = loss_and_aux(method, w, views, key=key, step=step)
        return loss, aux, method.predict(w, views["pieces"], train=train)[1]

    return w, views, *both(w, views)
