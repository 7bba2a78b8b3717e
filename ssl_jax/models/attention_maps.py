"""Where the class token of a Vision Transformer looks: the attention of its last layer."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.core.arrays import Array
from ssl_jax.core.tree_paths import STACKED
from ssl_jax.models.functional import Net
from ssl_jax.models.vit import ViT, layer_norm

PyTree = Any


def has_attention_maps(encoder: Net) -> bool:
    """Whether the encoder is a ViT with a class token and at least two layers."""
    vit = encoder.module
    return isinstance(vit, ViT) and vit.cls_token and vit.depth > 1


def class_attention(
    encoder: Net, params: PyTree, buffers: PyTree, x: Float[Array, "n h w c"]
) -> Float[Array, "n heads t"]:
    """Attention weights of the class token over all tokens, in each head of the last layer.

    The layer's implementation of attention does not return its weights, so they are computed again
    from the output of the layer before it.

    Args:
      encoder: a net for which `has_attention_maps` is true.
      params, buffers: of the encoder.
      x: images [n h w c].

    Returns:
      float32 [n heads t], sums of 1 over t: class token, registers, patches in row-major order.
    """
    vit = encoder.module
    (_, out), _ = encoder.apply(params, buffers, x, train=False)
    if vit.scan_layers:
        last = jax.tree.map(lambda leaf: leaf[-1], params[STACKED])
    else:
        last = params[f"layer{vit.depth}"]
    tokens = out[f"layer{vit.depth - 1}"].astype(jnp.float32)  # (n, t, d)
    tokens = layer_norm(jnp.float32, name=None).apply({"params": last["norm1"]}, tokens)
    dense = last["attn"]["qkv"]
    qkv = tokens @ dense["kernel"] + dense.get("bias", 0.0)
    n, t, d = tokens.shape
    q, k, _ = jnp.moveaxis(qkv.reshape(n, t, 3, vit.num_heads, d // vit.num_heads), 2, 0)
    logits = jnp.einsum("nhd,nthd->nht", q[:, 0], k) / math.sqrt(d // vit.num_heads)
    return jax.nn.softmax(logits, axis=-1)


def attention_maps(
    encoder: Net, params: PyTree, buffers: PyTree, x: Float[Array, "n h w c"]
) -> Float[Array, "n heads h w"]:
    """`class_attention` over the patches as maps of the size of the images.

    Each map is divided by its maximum. All pixels of a patch have the same value.

    Returns:
      float32 [n heads h w] in [0, 1].
    """
    weights = class_attention(encoder, params, buffers, x)
    patch = encoder.module.patch_size
    rows, columns = x.shape[1] // patch, x.shape[2] // patch
    weights = weights[..., -rows * columns :]  # other tokens precede the patches
    weights = weights / weights.max(axis=-1, keepdims=True)
    maps = weights.reshape(*weights.shape[:2], rows, columns)
    return jnp.repeat(jnp.repeat(maps, patch, axis=2), patch, axis=3)
