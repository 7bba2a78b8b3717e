"""Features and layers of methods with an encoder of images or of rows of a table."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from ssl_jax.core.layer_outputs import LayerOutput
from ssl_jax.core.method import Array, Batch, Method, Weights
from ssl_jax.methods.base.inputs import whole_examples
from ssl_jax.models.encoder_layers import encoder_layers


@dataclasses.dataclass(frozen=True)
class EncoderFeatures(Method):
    """Implements `features` and `layers`.

    A subclass has `encoder`, a `Net` with the parameters "encoder", and `eval_view`, which maps
    images [n h w c], or rows, to the inputs of the encoder in evaluation.
    """

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """`h` [n d] of the evaluation view of each example."""
        x = self.eval_view(whole_examples(batch))
        (h, _), _ = self.encoder.apply(w.params["encoder"], w.buffers["encoder"], x, train=False)
        return {"h": h.astype(jnp.float32)}

    def layers(self, w: Weights, batch: Batch) -> dict[str, LayerOutput]:
        x = self.eval_view(whole_examples(batch))
        return encoder_layers(self.encoder, w.params["encoder"], w.buffers["encoder"], x)
