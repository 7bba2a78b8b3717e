"""Log-sum-exp over the negatives of every view, with memory linear in the number of views.

With s_ij = z_i.z_j the quantity is L_i = log sum_j exp(s_ij) over all views j of other images. The
similarity matrix is never stored: it is computed tile by tile in the forward pass and again in the
backward pass. With P_ij = exp(s_ij - L_i) and g_i the cotangent of L_i, the gradient of z_i is

    dz_i = sum_j (g_i P_ij + g_j P_ji) z_j

and since s is symmetric both terms follow from s_ij, L and g. So a device that has every z, L and
g computes the whole gradient of its own rows: embeddings are gathered once, and no gradient is sent
between devices. There are three schedules:

  gathered    each device holds all keys and compares its own rows with all columns: 6 N^2 d / D
              FLOPs (N views, d dimensions, D devices), memory O(N d)
  ring        the same tiles, but each device's keys are sent round a ring: memory O(N d / D)
  triangular  one device computes each pair of chunks once and uses it for the rows and for the
              columns: 4 N^2 d FLOPs

A chunk of rows [2c d] is c first views, then the second views of the same c images. The excluded
pairs, a view with itself and with its positive, then lie on the diagonals of the four quarters of
the diagonal tiles, and in no other tile. First and second views stay in two arrays, so a chunk is a
reshape of an input array and not a copy.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.core import batch_axes
from ssl_jax.core.batch_axes import ROWS, WHOLE
from ssl_jax.losses import blockwise_schedules as schedules
from ssl_jax.losses.blockwise_tiles import Plan, Stats, ViewPair, Weights, from_chunks, to_chunks
from ssl_jax.losses.tiles import chunk_size

Array = jax.Array


class Negatives(NamedTuple):
    """Statistics of the similarities of each view to its negatives.

    Attributes:
      lse_a, lse_b: float32 [n], log of the sum of exp over the 2n-2 views of other images, for the
        first and the second views. Differentiable.
      cross_lse, cross_mean, cross_max: float32 [n], for the first views, over the n-1 second views
        of other images: log-sum-exp, softmax-weighted mean and maximum. No gradient.
    """

    lse_a: Array
    lse_b: Array
    cross_lse: Array
    cross_mean: Array
    cross_max: Array


def make_plan(n: int, *, ring: bool, block_size: int, shift: float | None) -> Plan:
    """Returns a plan for n images on the ambient mesh.

    Args:
      n: images of the global batch.
      ring: use the ring schedule where there is more than one device.
      block_size: approximate maximum number of views on a side of a tile.
      shift: see `Plan`.

    Raises:
      ValueError: n is not a multiple of the number of devices.
    """
    shards = batch_axes.shards()
    batch_axes.check_divisible(n, "images")
    images = n // shards
    chunk = chunk_size(images, max(1, block_size // 2))
    schedule = "gathered"
    if shards > 1 and ring:
        schedule = "ring"
    elif shards == 1 and shift is not None:
        schedule = "triangular"
    return Plan(schedule, chunk, images, batch_axes.batch_axes(), shards, shift)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def negatives(za: Array, zb: Array, plan: Plan) -> Negatives:
    """Statistics of every view's negatives, over the global batch.

    Args:
      za, zb: [n d], the two views of each image, float32 or bfloat16. Similarities are plain dot
        products; the embeddings already contain the temperature.
      plan: see `make_plan`.
    """
    return _forward(za, zb, plan)[0]


def _forward(za: Array, zb: Array, plan: Plan) -> tuple[Negatives, Any]:
    compute = {
        "gathered": schedules.gathered,
        "ring": schedules.ring,
        "triangular": schedules.triangular,
    }[plan.schedule]

    def local(za: Array, zb: Array) -> tuple[Stats, ViewPair | None]:
        return compute(ViewPair(to_chunks(za, plan), to_chunks(zb, plan)), plan)

    stats, keys = batch_axes.on_each_device(local, (ROWS, ROWS), (ROWS, WHOLE))(za, zb)
    lse = stats.lse(plan)

    def per_image(x: Array) -> Array:  # (chunks of all devices, c) -> (n,)
        x = x.reshape(plan.shards, plan.chunks * plan.chunk)
        return x[:, : plan.images].reshape(-1)

    result = Negatives(
        lse_a=per_image(lse[:, : plan.chunk]),
        lse_b=per_image(lse[:, plan.chunk :]),
        cross_lse=per_image(stats.cross_lse(plan)),
        cross_mean=per_image(stats.cross_mean()),
        cross_max=per_image(stats.cross_max),
    )
    return result, (za, zb, keys, lse)


def _backward(plan: Plan, residuals: Any, cotangent: Negatives) -> tuple[Array, Array]:
    za, zb, keys, lse = residuals
    compute = {
        "gathered": schedules.gathered_gradient,
        "ring": schedules.ring_gradient,
        "triangular": schedules.triangular_gradient,
    }[plan.schedule]

    def local(za: Array, zb: Array, keys: ViewPair | None, lse: Array, ga: Array, gb: Array):
        z = ViewPair(to_chunks(za, plan), to_chunks(zb, plan))
        g = jnp.concatenate([to_chunks(ga, plan), to_chunks(gb, plan)], axis=1)
        dz = compute(z, keys, Weights.make(lse, g, plan), plan)
        return from_chunks(dz.a, plan, za.dtype), from_chunks(dz.b, plan, zb.dtype)

    inputs = (ROWS, ROWS, WHOLE, ROWS, ROWS, ROWS)
    over_devices = batch_axes.on_each_device(local, inputs, (ROWS, ROWS))
    return over_devices(za, zb, keys, lse, cotangent.lse_a, cotangent.lse_b)


negatives.defvjp(_forward, _backward)
