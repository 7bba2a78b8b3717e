"""A method's functions, jitted, with the arguments that most tests do not care about.

Without jit every operation would be compiled by itself, which takes longer than the test.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ssl_jax.core import method as method_lib


def views_of(method, keys, batch, *, step=0):
    """The method's views of a batch, jitted; the batch's key is a fixed one."""
    views = jax.jit(method.views)
    return views(keys, batch, key=jax.random.key(0), step=jnp.int32(step))


def encode(method, w, views, *, key=None, step=0):
    """The method's forward passes, jitted."""
    key = jax.random.key(0) if key is None else key
    return jax.jit(method.encode)(w, views, key=key, step=jnp.int32(step))


def loss_and_aux(method, w, views, *, key, step):
    """The method's loss of views and what comes with it, jitted."""

    @jax.jit
    def loss(w, views, key, step):
        return method_lib.loss_and_aux(method, w, views, key=key, step=step)

    return loss(w, views, key, jnp.int32(0 if step is None else step))
