"""Turns a Linen module into two pure functions of plain nested dicts.

Methods use only `Net`. `params` are trained. `buffers` hold the other state of a module, such as
the running statistics of BatchNorm. Both are nested dicts of arrays, so one `params` tree may
contain several nets, `{"encoder": ..., "projector": ...}`.

    encoder = Net(ResNet(depth=50))
    params, buffers = encoder.init(key, images)
    (h, out), buffers = encoder.apply(params, buffers, images, train=True)
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Net:
    """A Linen module as pure functions. It is hashable, so methods may store it in a static field.

    The module's `__call__` must take its inputs by position and `train: bool` by keyword.
    """

    module: nn.Module

    def init(self, key: jax.Array, *inputs: Any) -> tuple[PyTree, PyTree]:
        """Initial parameters and buffers.

        Args:
          key: PRNG key.
          *inputs: arrays or `jax.ShapeDtypeStruct`s; only their shapes and dtypes matter.

        Returns:
          `(params, buffers)`, float32 for every compute dtype. `buffers` is
          `{"batch_stats": ...}`, or `{}` for a net without running statistics. The structure of
          the trees does not depend on the key. Call it under `jax.jit`, which removes the forward
          pass, or under `jax.eval_shape`.
        """
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), inputs)
        buffers = dict(self.module.init({"params": key}, *zeros, train=False))
        params = buffers.pop("params", {})
        return params, buffers

    def apply(
        self,
        params: PyTree,
        buffers: PyTree,
        *inputs: Any,
        train: bool,
        key: jax.Array | None = None,
    ) -> tuple[Any, PyTree]:
        """The module's outputs and the buffers after this call.

        Args:
          params: parameters with the structure of those of `init`.
          buffers: buffers with the structure of those of `init`.
          *inputs: the inputs of the module.
          train: True: use batch statistics and return updated buffers. False: use running
            statistics and return the buffers unchanged. Under `jit`, the batch statistics of a
            batch sharded over devices are those of the global batch.
          key: PRNG key for dropout and stochastic depth; needed only by nets that have them.

        Returns:
          `(outputs, buffers)`.
        """
        variables = {"params": params, **buffers}
        rngs = None if key is None else {"dropout": key}
        if not train:
            return self.module.apply(variables, *inputs, train=False, rngs=rngs), buffers
        outputs, updated = self.module.apply(
            variables, *inputs, train=True, rngs=rngs, mutable=list(buffers)
        )
        return outputs, dict(updated)


def count_parameters(params: PyTree) -> int:
    """The total number of scalars in a tree of arrays or of `jax.ShapeDtypeStruct`s."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
