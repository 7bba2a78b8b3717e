"""BatchNorm whose statistics are those of the global batch, however the batch is split."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from ssl_jax import ambient


def batch_norm(*, train: bool, dtype: Any = jnp.float32, **options: Any) -> nn.BatchNorm:
    """BatchNorm with momentum 0.9 and epsilon 1e-5; statistics in float32, in one pass.

    Under `jit` XLA takes the statistics over all devices. Inside a `shard_map`, where an array is
    one device's part, they are averaged over its batch axes: the same numbers.

    Args:
      train: statistics of the batch; else the running ones.
      dtype: of the output.
      **options: further fields of `flax.linen.BatchNorm`.
    """
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        axis_name=ambient.manual_axes() or None,
        **options,
    )
