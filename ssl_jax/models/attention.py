"""Softmax attention: a fused kernel on devices that support it, XLA elsewhere.

A fused kernel never holds the [t s] matrix of a head: cuDNN's on NVIDIA devices, JAX's "splash"
attention on TPUs. The choice is made while tracing: from the devices of the ambient mesh, which a
program may be compiled for without their being there, or else from the default device.

Texts packed into one row are kept apart by their segment ids: a token looks at those of its own
segment only. Padding is a segment like any other, so that no row is without a key; what comes out
there is of no use.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.core import batch_axes
from ssl_jax.core.batch_axes import ROWS
from ssl_jax.core.errors import UserError, nearest

Array = jax.Array

IMPLEMENTATIONS = ("auto", "xla", "cudnn", "splash")
# What every cuDNN that jax still supports can do (some do more on newer devices).
_LEAST_CAPABILITY = (8, 0)
_LARGEST_HEAD = 128
# Splash attention works on square tiles, the largest that fits. At shorter lengths than a tile of
# the largest kind the matrix of a head is small, and XLA's batched products are left to do it.
_TILES = (512, 256, 128)


def attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Array | None = None,
    segment: Array | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    dropout_key: Array | None = None,
    implementation: str = "auto",
) -> Array:
    """softmax(q k^T / sqrt(d)) v in every head (Vaswani et al. 2017, Eq. 1).

    Args:
      query: [n t heads d], any float dtype.
      key, value: [n s heads d], of the same dtype.
      mask: bool, broadcastable to [n heads t s]: False where a query must not look at a key.
      segment: int [n t], with s = t: a query looks at keys of its own segment only.
      causal: query i looks at keys 0 to i only.
      dropout: share of the weights that are set to 0 (the others grow to make up for them). Only
        XLA does this.
      dropout_key: what to draw them with; needed with `dropout`.
      implementation: "auto", "xla", "cudnn" or "splash"; the result is the same to rounding.

    Returns:
      [n t heads d] in the dtype of `query`; the softmax is float32.

    Raises:
      UserError: there is no such implementation, or it cannot do what is asked of it.
    """
    check_implementation(implementation)
    if dropout and implementation in ("cudnn", "splash"):
        raise UserError(
            f"attention {implementation!r} has no dropout; set model.attention_dropout to 0, or "
            "model.attention to 'xla'"
        )
    if implementation == "auto" and dropout:
        implementation = "xla"
    elif implementation == "auto":
        implementation = choose_implementation(
            query, key, masked=mask is not None, segmented=segment is not None
        )
    if implementation == "splash" and query.shape[0] % batch_axes.shards():
        implementation = "xla"  # a row to initialise a net with is not split over devices
    if implementation == "splash":
        return _splash(query, key, value, mask=mask, segment=segment, causal=causal)
    if segment is not None:
        same = segment[:, None, :, None] == segment[:, None, None, :]  # (n, 1, t, t)
        mask = same if mask is None else mask & same
    if dropout:
        return _with_dropout(query, key, value, mask, causal, dropout, dropout_key)
    return jax.nn.dot_product_attention(
        query, key, value, mask=mask, is_causal=causal, implementation=implementation
    )


def check_implementation(name: str) -> None:
    """Raises `UserError` unless `name` is one of `IMPLEMENTATIONS`."""
    if name not in IMPLEMENTATIONS:
        raise UserError(
            f"unknown attention {name!r}; known are {', '.join(IMPLEMENTATIONS)}."
            f"{nearest(name, IMPLEMENTATIONS)}"
        )


def choose_implementation(
    query: Array, key: Array, *, masked: bool, segmented: bool = False, device: Any | None = None
) -> str:
    """The fused kernel that can do these shapes on this device, else "xla".

    Args:
      query, key: [n t heads d] and [n s heads d]; only shapes and dtypes are read.
      masked: whether there is a mask other than the causal one.
      segmented: whether there are segments.
      device: default the first of the ambient mesh, or of the default backend.
    """
    if device is None:
        device = _target()
    head_dim, lengths = query.shape[-1], (query.shape[1], key.shape[1])
    if device.device_kind.startswith("TPU"):
        fits = (
            not masked
            and segmented
            and lengths[0] == lengths[1]
            and lengths[0] % _TILES[0] == 0
            and query.dtype == jnp.bfloat16
            and _splits_rows_only()
            and query.shape[0] % batch_axes.shards() == 0
        )
        return "splash" if fits else "xla"
    fits = (
        query.dtype in (jnp.bfloat16, jnp.float16)
        and head_dim % 8 == 0
        and head_dim <= _LARGEST_HEAD
        # A mask becomes a bias, whose gradient needs even lengths.
        and not ((masked or segmented) and any(length % 2 for length in lengths))
    )
    return "cudnn" if fits and _capability(device) >= _LEAST_CAPABILITY else "xla"


def _target() -> Any:
    """What the program is traced for; it has a `device_kind`."""
    meant = jax.sharding.get_abstract_mesh().abstract_device
    if meant is not None and meant.device_kind.startswith("TPU"):
        return meant
    return jax.devices()[0]


def _splits_rows_only() -> bool:
    """Whether a kernel that XLA cannot split finds its rows whole on each device."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.device_count() == 1 if mesh.empty else mesh.shape.get("tensor", 1) == 1


def _capability(device: Any) -> tuple[int, ...]:
    """CUDA's compute capability, e.g. (8, 0); (0,) of a device that is not NVIDIA's."""
    if device.platform not in ("gpu", "cuda") or "cuda" not in device.client.platform_version:
        return (0,)
    return tuple(int(part) for part in device.compute_capability.split("."))


def _with_dropout(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    causal: bool,
    dropout: float,
    dropout_key: Array | None,
) -> Array:
    if dropout_key is None:
        raise ValueError("attention with dropout needs a dropout_key")
    logits = jnp.einsum("nthd,nshd->nhts", query, key, preferred_element_type=jnp.float32)
    logits = logits * query.shape[-1] ** -0.5
    if causal:
        seen = jnp.tril(jnp.ones(logits.shape[-2:], bool))
        mask = seen if mask is None else mask & seen
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1)
    kept = jax.random.bernoulli(dropout_key, 1 - dropout, weights.shape)
    weights = jnp.where(kept, weights / (1 - dropout), 0).astype(query.dtype)
    return jnp.einsum("nhts,nshd->nthd", weights, value)


def _splash(
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Array | None,
    segment: Array | None,
    causal: bool,
    interpret: bool = False,
) -> Array:
    """JAX's kernel for TPUs, forwards and backwards, on each device's own rows.

    Args:
      interpret: run it without a TPU, slowly.
    """
    length = query.shape[1]
    tile = next((tile for tile in _TILES if length % tile == 0), None)
    if mask is not None or length != key.shape[1] or tile is None:
        raise UserError(
            f"attention 'splash' takes no mask and as many queries as keys, a multiple of "
            f"{_TILES[-1]}; here are {length} and {key.shape[1]}; set model.attention to 'xla'"
        )
    if segment is None:
        segment = jnp.zeros(query.shape[:2], jnp.int32)
    local = functools.partial(_splash_local, tile=tile, causal=causal, interpret=interpret)
    return batch_axes.on_each_device(local, (ROWS,) * 4, ROWS)(query, key, value, segment)


def _splash_local(
    query: Array,
    key: Array,
    value: Array,
    segment: Array,
    *,
    tile: int,
    causal: bool,
    interpret: bool,
) -> Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel,
        splash_attention_mask,
    )

    _, length, heads, head_dim = query.shape
    mask = splash_attention_mask.CausalMask if causal else splash_attention_mask.FullMask
    kernel = splash_attention_kernel.make_splash_mha_single_device(
        splash_attention_mask.MultiHeadMask([mask((length, length))] * heads),
        block_sizes=splash_attention_kernel.BlockSizes(
            block_q=tile,
            block_kv=tile,
            block_kv_compute=tile,
            block_q_dkv=tile,
            block_kv_dkv=tile,
            block_kv_dkv_compute=tile,
            use_fused_bwd_kernel=True,
        ),
        interpret=interpret,
    )

    def attend_text(query: Array, key: Array, value: Array, segment: Array) -> Array:
        ids = splash_attention_kernel.SegmentIds(segment, segment)
        return kernel(query, key, value, segment_ids=ids)

    query, key, value = (x.swapaxes(1, 2) for x in (query * head_dim**-0.5, key, value))
    return jax.vmap(attend_text)(query, key, value, segment).swapaxes(1, 2)
