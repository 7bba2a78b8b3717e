"""An encoder and a head on its h: what maps images to codes in autoencoders."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from ssl_jax.core.method import Array, PyTree, Weights
from ssl_jax.models import Net


@dataclasses.dataclass(frozen=True)
class Coder:
    """Images [n h w c] -> h = f(x) -> codes [n k].

    Attributes:
      encoder: f, with the parameters "encoder".
      head: maps h [n d] to [n k].
      name: of the parameters of the head.
    """

    encoder: Net
    head: Net
    name: str

    def init(
        self, encoder_key: Array, head_key: Array, x: jax.ShapeDtypeStruct
    ) -> tuple[PyTree, PyTree, jax.ShapeDtypeStruct]:
        """Initial params and buffers for images like `x`, and the shape of their h."""
        params, buffers = {}, {}
        params["encoder"], buffers["encoder"] = self.encoder.init(encoder_key, x)
        (h, _), _ = jax.eval_shape(
            lambda *state: self.encoder.apply(*state, jnp.zeros(x.shape), train=False),
            params["encoder"],
            buffers["encoder"],
        )
        params[self.name], buffers[self.name] = self.head.init(head_key, h)
        return params, buffers, h

    def apply(
        self, w: Weights, x: Array, *, train: bool, key: Array | None = None
    ) -> tuple[Array, dict[str, PyTree]]:
        """The codes [n k] and the updated buffers."""
        updates = {}
        (h, _), updates["encoder"] = self.encoder.apply(
            w.params["encoder"], w.buffers["encoder"], x, train=train, key=key
        )
        codes, updates[self.name] = self.head.apply(
            w.params[self.name], w.buffers[self.name], h, train=train
        )
        return codes, updates
