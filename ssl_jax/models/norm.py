"""BatchNorm with statistics of the global batch or of groups of examples, for any sharding.

By default statistics are those of the global batch. `apply_in_groups` computes them over groups of
examples, like separate devices without synchronisation. `interleave` distributes the examples of
each group over other groups. Together they are MoCo's shuffling BatchNorm (He et al. 2020, 3.3).

The running variance is an average of the biased variances of the batches (divided by n, the number
of values of a channel in a batch), as in Flax and, across replicas, in SimCLR's released code.
Ioffe & Szegedy (2015, algorithm 2) and PyTorch average the unbiased variances, which are larger by
n / (n - 1). Converted weights keep their running variance, so evaluation is exact. Training that
continues from PyTorch, or in PyTorch, moves it to the other convention: by 4% at n = 25, by less
than 0.01% at 256 images of 7x7 positions.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.core import batch_axes
from ssl_jax.core.batch_axes import ROWS
from ssl_jax.core.errors import UserError
from ssl_jax.models.functional import Net

PyTree = Any

_GROUP = "bn_group"  # axis name of the vmap over groups, by which BatchNorm detects it


def batch_norm(
    *, train: bool, dtype: Any = jnp.float32, epsilon: float = 1e-5, **options: Any
) -> nn.BatchNorm:
    """BatchNorm with momentum 0.9; statistics in float32.

    The variance is computed in one pass, E[x^2] - E[x]^2, unless `use_fast_variance` is False.

    Under `jit` statistics are over all devices. Inside a `shard_map`, where an array is the part of
    one device, they are averaged over the batch axes, which gives the same numbers. Inside
    `apply_in_groups` they are those of the group.

    Args:
      train: use batch statistics; otherwise running statistics.
      dtype: dtype of the output.
      epsilon: added to the variance.
      **options: further fields of `flax.linen.BatchNorm`.
    """
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=epsilon,
        dtype=dtype,
        axis_name=None if _in_group() else batch_axes.manual_axes() or None,
        **options,
    )


class ImageLayerNorm(nn.Module):
    """LayerNorm of images [n h w c], which depends on no other image (Ba et al. 2016).

    Mean and variance are those of all positions and channels of an image, in float32; scale and
    offset are by channel.

    Attributes:
      dtype: dtype of the output.
      epsilon: added to the variance.
    """

    dtype: Any = jnp.float32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        wide = x.astype(jnp.float32)
        mean = jnp.mean(wide, axis=(1, 2, 3), keepdims=True)
        variance = jnp.mean((wide - mean) ** 2, axis=(1, 2, 3), keepdims=True)
        return ((wide - mean) * jax.lax.rsqrt(variance + self.epsilon) * scale + bias).astype(
            self.dtype
        )


def _in_group() -> bool:
    try:
        jax.lax.axis_size(_GROUP)
    except NameError:  # no axis of that name
        return False
    return True


def apply_in_groups(
    net: Net,
    params: PyTree,
    buffers: PyTree,
    x: jax.Array,
    *,
    groups: int | None,
    key: jax.Array | None = None,
) -> tuple[Any, PyTree]:
    """`net.apply(..., train=True)` with batch statistics of groups of neighbouring examples.

    The result does not depend on the number of devices, which must divide the number of groups.
    Each group is on one device, so only running statistics are communicated.

    Args:
      net: the net.
      params: its parameters.
      buffers: its buffers.
      x: [n ...]; the first n / groups rows are the first group, and so on. Inside a `shard_map`,
        the rows of this device, where n counts the rows of all devices.
      groups: number of groups; None: statistics of the whole batch.
      key: PRNG key for dropout.

    Returns:
      (outputs, buffers): the outputs in the order of `x`, and the mean over groups of the updated
      buffers, so a running variance is the variance within groups.

    Raises:
      UserError: the number of groups is not a multiple of the number of devices, or the number of
        rows not a multiple of the number of groups.
    """
    if groups is None:
        return net.apply(params, buffers, x, train=True, key=key)
    axes = batch_axes.manual_axes()
    devices = jax.lax.axis_size(axes) if axes else batch_axes.shards()
    check_groups(groups, len(x) * (devices if axes else 1), devices)
    local_groups = groups // devices if axes else groups
    keys = None if key is None else jax.random.split(key, local_groups)

    def apply_to_group(x: jax.Array, key: jax.Array | None) -> tuple[Any, PyTree]:
        return net.apply(params, buffers, x, train=True, key=key)

    parts = x.reshape(local_groups, -1, *x.shape[1:])  # (groups, n / groups, ...)
    outputs, updated = jax.vmap(apply_to_group, axis_name=_GROUP)(parts, keys)
    updated = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), updated)
    if axes:
        updated = jax.lax.pmean(updated, axes)
    return jax.tree.map(lambda y: y.reshape(len(x), *y.shape[2:]), outputs), updated


def check_groups(groups: int, rows: int, devices: int = 1) -> None:
    """Raises `UserError` unless `groups` is a valid number of groups.

    `rows` examples on `devices` devices must divide into groups of at least two, which `interleave`
    can distribute.
    """
    if groups < 1 or groups % devices:
        nearest_valid = devices * max(1, round(groups / devices))
        raise UserError(
            f"bn_groups {groups} has to be a positive multiple of the {devices} devices that "
            f"split the batch; use {nearest_valid}"
        )
    if rows % groups or rows // groups < 2:
        raise UserError(
            f"bn_groups {groups} has to cut {rows} examples into groups of at least two; use a "
            f"divisor of {rows}, or None for statistics of the whole batch"
        )
    common = math.gcd(groups, rows // groups)
    if groups > 1 and common == 1:
        raise UserError(
            f"bn_groups {groups} and the {rows // groups} examples of a group have no common "
            "divisor, so the groups cannot be interleaved; powers of two can"
        )
    if max(devices, common) % min(devices, common):
        raise UserError(
            f"bn_groups {groups} of {rows // groups} examples cannot be interleaved over {devices} "
            "devices; use powers of two"
        )


def interleave(x: jax.Array, groups: int | None) -> jax.Array:
    """Distributes the examples of each group evenly over other groups. It is its own inverse.

    With g groups of r rows and s = gcd(g, r), each group of the result has r / s rows from each of
    s groups. So a group before and a group after have at most r / s of their r rows in common. The
    permutation is fixed. Batches are random already, and a random permutation would need more
    communication, because any device could need any row. This one sends each row once, in an
    all-to-all.

    Args:
      x: [n ...], an array with one row per example; groups are as in `apply_in_groups`.
      groups: number of groups; None or 1: the order does not change.

    Returns:
      [n ...] in the new order.

    Raises:
      UserError: as `check_groups`.
    """
    if groups in (None, 1):
        return x
    return batch_axes.on_each_device(
        functools.partial(_interleave_local, groups=groups), (ROWS,), ROWS
    )(x)


def _interleave_local(x: jax.Array, *, groups: int) -> jax.Array:
    """`interleave` of the rows on one device.

    Write the index of a group as (a, b) and the index of a row in its group as (c, d), with a and c
    below s. The permutation exchanges a and c. A device holds some values of a, with all or some
    values of b.
    """
    axes = batch_axes.manual_axes()
    devices = jax.lax.axis_size(axes) if axes else 1
    check_groups(groups, len(x) * devices, devices)
    rows = len(x) * devices // groups
    common = math.gcd(groups, rows)
    span = min(devices, common)  # devices that exchange rows with each other
    y = x.reshape(common // span, -1, common, rows // common, *x.shape[1:])  # (a, b, c, d, ...)
    if span > 1:
        stride = devices // span
        exchanges = [[first + stride * a for a in range(span)] for first in range(stride)]
        y = jax.lax.all_to_all(
            y, axes, 2, 0, tiled=True, axis_index_groups=exchanges if stride > 1 else None
        )
    return y.swapaxes(0, 2).reshape(x.shape)
