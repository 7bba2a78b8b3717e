"""The outputs of all layers of an encoder of images, for probes."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ssl_jax.core.arrays import Array
from ssl_jax.core.layer_outputs import LayerOutput
from ssl_jax.models.functional import Net
from ssl_jax.models.vit import ViT, layer_norm

PyTree = Any


def encoder_layers(
    encoder: Net, params: PyTree, buffers: PyTree, x: Array
) -> dict[str, LayerOutput]:
    """The second result of `encode_with_layers`."""
    return encode_with_layers(encoder, params, buffers, x)[1]


def encode_with_layers(
    encoder: Net, params: PyTree, buffers: PyTree, x: Array
) -> tuple[Array, dict[str, LayerOutput]]:
    """Encodes images; returns h and the output of each layer of a ViT, or stage of another net.

    The tokens of each layer of a ViT are after the final LayerNorm, as in the linear evaluations of
    the released codes of DINO and DINOv2.

    Args:
      encoder: f.
      params, buffers: of the encoder.
      x: images [n h w c].

    Returns:
      h [n d]; "layer1" to "layerN", or "stage1" to "stageN", empty for other nets. Float32.
    """
    (h, out), _ = encoder.apply(params, buffers, x, train=False)
    vit, h = encoder.module, h.astype(jnp.float32)
    if not isinstance(vit, ViT):
        return h, {
            name: LayerOutput(y.reshape(len(y), -1, y.shape[-1]).astype(jnp.float32))
            for name, y in out.items()
            if name.startswith("stage")
        }
    norm = layer_norm(jnp.float32, name=None)
    num_patches = out["patch_tokens"].shape[1]
    layers = {}
    for i in range(1, vit.depth + 1):
        tokens = norm.apply({"params": params["norm"]}, out[f"layer{i}"])  # (n, t, d)
        # Other tokens, such as the class token, precede the patches.
        cls = tokens[:, 0] if vit.cls_token else None
        layers[f"layer{i}"] = LayerOutput(tokens[:, -num_patches:], cls)
    return h, layers
