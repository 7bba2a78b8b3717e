"""Softmax attention: a fused kernel on devices that support it, XLA elsewhere.

Fused kernels do not store the [t s] matrix of a head. They are cuDNN's on NVIDIA devices and JAX's
"splash" attention on TPUs. The implementation is chosen at trace time, from the devices of the
ambient mesh or else from the default device. The devices of the mesh need not be present: a program
may be compiled for other devices.

Segment ids separate texts packed into one row: a token attends only to tokens of its own segment.
Padding is a segment too, so that every query has a key. Outputs at padding are meaningless.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from ssl_jax.core import batch_axes
from ssl_jax.core.batch_axes import ROWS
from ssl_jax.core.errors import UserError, nearest

Array = jax.Array

IMPLEMENTATIONS = ("auto", "xla", "cudnn", "splash")
# Supported by every cuDNN version that jax supports; some versions support more on newer devices.
_MIN_CAPABILITY = (8, 0)
_MAX_HEAD_DIM = 128
# Splash attention uses square tiles with the largest of these sides that divides the length. "auto"
# chooses XLA if 512 does not divide the length: for short texts the matrix of a head is small.
_TILES = (512, 256, 128)
TENSOR = "tensor"  # axis of the mesh that splits heads


def attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Array | None = None,
    segment: Array | None = None,
    causal: bool = False,
    window: int | None = None,
    bias: Array | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    dropout_key: Array | None = None,
    implementation: str = "auto",
) -> Array:
    """softmax(q k^T / sqrt(d)) v in every head (Vaswani et al. 2017, Eq. 1).

    Args:
      query: [n t heads d], any float dtype.
      key, value: [n s heads d], of the same dtype.
      mask: bool, broadcastable to [n heads t s]: False where a query must not attend to a key.
      segment: int [n t], with s = t: a query attends only to keys of its own segment.
      causal: query i attends only to keys 0 to i.
      window: with `causal`: query i attends only to keys i - window + 1 to i.
      bias: added to the logits, [1 heads t s] or [n heads t s], of the dtype of `query`. Not in
        "splash".
      scale: multiplies q k^T; None: 1 / sqrt(d).
      dropout: probability with which an attention weight is set to 0; the other weights are divided
        by 1 - dropout. Only "xla" supports it.
      dropout_key: random key, required with `dropout`.
      implementation: "auto", "xla", "cudnn" or "splash"; results are equal up to rounding.

    Returns:
      [n t heads d] in the dtype of `query`; the softmax is float32.

    Raises:
      UserError: the implementation is unknown, or does not support the arguments.
    """
    check_implementation(implementation)
    if window is not None and not causal:
        raise ValueError("a window needs causal attention")
    if dropout and implementation in ("cudnn", "splash"):
        raise UserError(
            f"attention {implementation!r} has no dropout; set model.attention_dropout to 0, or "
            "model.attention to 'xla'"
        )
    if implementation == "auto" and dropout:
        implementation = "xla"
    elif implementation == "auto":
        implementation = choose_implementation(
            query,
            key,
            masked=mask is not None or bias is not None,
            segmented=segment is not None,
            causal=causal,
        )
    if implementation == "splash" and query.shape[0] % batch_axes.shards():
        implementation = "xla"  # the single row used to initialise a net is not split over devices
    if implementation == "splash":
        if bias is not None or scale is not None:
            raise UserError(
                "attention 'splash' has no relative positions; set model.attention to 'xla'"
            )
        return _splash(query, key, value, mask=mask, segment=segment, causal=causal, window=window)
    query, key, value = (split_heads(x, axis=2) for x in (query, key, value))
    if segment is not None:
        same = segment[:, None, :, None] == segment[:, None, None, :]  # (n, 1, t, t)
        mask = same if mask is None else mask & same
    if dropout:
        return _with_dropout(
            query, key, value, mask, causal, window, bias, scale, dropout, dropout_key
        )
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        bias=bias,
        mask=mask,
        scale=scale,
        is_causal=causal,
        local_window_size=None if window is None else (window - 1, 0),
        implementation=implementation,
    )


def check_implementation(name: str) -> None:
    """Raises `UserError` unless `name` is one of `IMPLEMENTATIONS`."""
    if name not in IMPLEMENTATIONS:
        raise UserError(
            f"unknown attention {name!r}; known are {', '.join(IMPLEMENTATIONS)}."
            f"{nearest(name, IMPLEMENTATIONS)}"
        )


def choose_implementation(
    query: Array,
    key: Array,
    *,
    masked: bool,
    segmented: bool = False,
    causal: bool = False,
    device: Any | None = None,
) -> str:
    """The fused kernel that supports these arguments on the device, else "xla".

    Args:
      query, key: [n t heads d] and [n s heads d]; only shapes and dtypes are read.
      masked: whether there is a mask other than the causal one.
      segmented: whether there are segments.
      causal: whether attention is causal.
      device: default: the first device of the ambient mesh, or of the default backend.
    """
    if device is None:
        device = _target_device()
    head_dim, lengths = query.shape[-1], (query.shape[1], key.shape[1])
    if device.device_kind.startswith("TPU"):
        fits = (
            not masked
            and (segmented or causal)
            and lengths[0] == lengths[1]
            and lengths[0] % _TILES[0] == 0
            and query.dtype == jnp.bfloat16
            and _fits_mesh(rows=query.shape[0], heads=query.shape[2])
        )
        return "splash" if fits else "xla"
    fits = (
        query.dtype in (jnp.bfloat16, jnp.float16)
        and head_dim % 8 == 0
        and head_dim <= _MAX_HEAD_DIM
        # A mask becomes a bias, whose gradient needs even lengths.
        and not ((masked or segmented) and any(length % 2 for length in lengths))
    )
    return "cudnn" if fits and _capability(device) >= _MIN_CAPABILITY else "xla"


def _target_device() -> Any:
    """The device the program is compiled for, an object with a `device_kind`."""
    mesh_device = jax.sharding.get_abstract_mesh().abstract_device
    if mesh_device is not None and mesh_device.device_kind.startswith("TPU"):
        return mesh_device
    return jax.devices()[0]


def heads_are_split(num_heads: int) -> bool:
    """Whether the axis `tensor` of the ambient mesh splits the heads: if they divide over it."""
    mesh = jax.sharding.get_abstract_mesh()
    size = mesh.shape.get(TENSOR, 1)
    return size > 1 and TENSOR not in mesh.manual_axes and num_heads % size == 0


def split_heads(x: Array, *, axis: int) -> Array:
    """The array, its heads (dimension `axis`) over the mesh's axis `tensor` if it splits them.

    Without this, every device of that axis computes all heads: XLA does not find by itself that the
    columns of the matrix before are split by heads.
    """
    if not heads_are_split(x.shape[axis]):
        return x
    free = P.UNCONSTRAINED
    return jax.lax.with_sharding_constraint(
        x, P(*(TENSOR if i == axis % x.ndim else free for i in range(x.ndim)))
    )


def _fits_mesh(*, rows: int, heads: int) -> bool:
    """Whether rows and heads divide over the devices, which a kernel needs: XLA cannot split it."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.device_count() == 1
    return rows % batch_axes.shards() == 0 and heads % mesh.shape.get(TENSOR, 1) == 0


def _capability(device: Any) -> tuple[int, ...]:
    """CUDA's compute capability, e.g. (8, 0); (0,) if the device is not from NVIDIA."""
    if device.platform not in ("gpu", "cuda") or "cuda" not in device.client.platform_version:
        return (0,)
    return tuple(int(part) for part in device.compute_capability.split("."))


def _with_dropout(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    causal: bool,
    window: int | None,
    bias: Array | None,
    scale: float | None,
    dropout: float,
    dropout_key: Array | None,
) -> Array:
    if dropout_key is None:
        raise ValueError("attention with dropout needs a dropout_key")
    logits = jnp.einsum("nthd,nshd->nhts", query, key, preferred_element_type=jnp.float32)
    logits = logits * (query.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        logits = logits + bias
    if causal:
        causal_mask = jnp.tril(jnp.ones(logits.shape[-2:], bool))
        if window is not None:
            causal_mask &= ~jnp.tril(causal_mask, -window)
        mask = causal_mask if mask is None else mask & causal_mask
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
    window: int | None = None,
    interpret: bool = False,
) -> Array:
    """JAX's differentiable TPU kernel, applied to each device's own rows and heads.

    The heads are split over the mesh's axis `tensor`, as the products before and after them are.

    Args:
      interpret: interpret the kernel, which is slow but needs no TPU.
    """
    length = query.shape[1]
    tile = next((tile for tile in _TILES if length % tile == 0), None)
    if mask is not None or length != key.shape[1] or tile is None:
        raise UserError(
            f"attention 'splash' takes no mask and as many queries as keys, a multiple of "
            f"{_TILES[-1]}; got {length} and {key.shape[1]}; set model.attention to 'xla'"
        )
    if segment is None:
        segment = jnp.zeros(query.shape[:2], jnp.int32)
    local = functools.partial(
        _splash_local, tile=tile, causal=causal, window=window, interpret=interpret
    )
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.shape.get(TENSOR, 1) == 1:
        return batch_axes.on_each_device(local, (ROWS,) * 4, ROWS)(query, key, value, segment)
    rows = batch_axes.batch_axes()
    heads = P(rows, None, TENSOR)
    local = jax.shard_map(
        local,
        in_specs=(heads, heads, heads, P(rows)),
        out_specs=heads,
        # XLA splits a kernel over no axis, not even one of a single device.
        axis_names=set(mesh.axis_names) - set(mesh.manual_axes),
        check_vma=False,
    )
    return local(query, key, value, segment)


def _splash_local(
    query: Array,
    key: Array,
    value: Array,
    segment: Array,
    *,
    tile: int,
    causal: bool,
    window: int | None,
    interpret: bool,
) -> Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel,
        splash_attention_mask,
    )

    _, length, heads, head_dim = query.shape
    shape = (length, length)
    if window is not None:
        mask = splash_attention_mask.LocalMask(shape, window_size=(window - 1, 0), offset=0)
    elif causal:
        mask = splash_attention_mask.CausalMask(shape)
    else:
        mask = splash_attention_mask.FullMask(shape)
    kernel = splash_attention_kernel.make_splash_mha_single_device(
        splash_attention_mask.MultiHeadMask([mask] * heads),
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
