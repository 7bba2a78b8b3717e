"""Calls of a method's functions with the arguments that most tests do not care about."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def views_of(method, keys, batch, *, step=0):
    """The method's views of a batch, jitted; the batch's key is a fixed one."""
    views = jax.jit(method.views)
    return views(keys, batch, key=jax.random.key(0), step=jnp.int32(step))


def encode(method, w, views, *, key=None, step=0):
    """The method's forward passes, jitted."""
    key = jax.random.key(0) if key is None else key
    return jax.jit(method.encode)(w, views, key=key, step=jnp.int32(step))
