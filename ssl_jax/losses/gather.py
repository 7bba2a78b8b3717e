"""Gathers rows from the devices that split a batch."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

Array = jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gather_rows(x: Array, axes: tuple[str, ...]) -> Array:
    """Gathers the rows of all devices. Gradients are summed in float32, also those of bfloat16."""
    return jax.lax.all_gather(x, axes, tiled=True)


def _gather_forward(x: Array, axes: tuple[str, ...]) -> tuple[Array, None]:
    return gather_rows(x, axes), None


def _gather_backward(axes: tuple[str, ...], _: None, dx: Array) -> tuple[Array]:
    wide = dx.astype(jnp.promote_types(dx.dtype, jnp.float32))
    return (jax.lax.psum_scatter(wide, axes, tiled=True).astype(dx.dtype),)


gather_rows.defvjp(_gather_forward, _gather_backward)
