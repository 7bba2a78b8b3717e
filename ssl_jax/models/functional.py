"""Turns a Linen module into two pure functions of plain nested dicts.

Methods see only `Net`: `params` receive gradients, `buffers` hold everything else a module keeps
(here the running statistics of BatchNorm). Both are nested dicts of arrays, so one `params` tree
may hold several nets side by side, `{"encoder": ..., "projector": ...}`.

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
    """A Linen module as pure functions; hashable, so methods may keep it as a static field.

    The module's `__call__` takes its inputs by position and `train: bool` by keyword.
    """

    module: nn.Module

    def init(self, key: jax.Array, *inputs: Any) -> tuple[PyTree, PyTree]:
        """Fresh parameters and buffers.

        Args:
          key: PRNG key.
          *inputs: arrays or `jax.ShapeDtypeStruct`s; only their shapes and dtypes matter.

        Returns:
          `(params, buffers)`, float32 whatever the compute dtype. `buffers` is
          `{"batch_stats": ...}`, or `{}` for a net without running statistics. The tree has the
          same structure for every key. Call it under `jax.jit` (the forward pass is then never
          run) or `jax.eval_shape`.
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
          params: parameters as from `init`, or an average of them.
          buffers: buffers as from `init`.
          *inputs: what the module takes.
          train: batch statistics (and updated buffers) if true; running statistics, and the very
            buffers that went in, if false. Under `jit` over a batch that is sharded over devices
            the batch statistics are those of the global batch.
          key: PRNG key for dropout and its like; not needed by nets without them.

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
    """The number of scalars in a tree of arrays or of `jax.ShapeDtypeStruct`s."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
