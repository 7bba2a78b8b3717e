"""Softmax attention: cuDNN's fused kernel on NVIDIA devices that have it, XLA everywhere else.

The fused kernel never holds the [t s] matrix of a head. The choice is made while tracing, from the
default device, since the kernel cannot even be traced without one.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.errors import UserError, nearest

Array = jax.Array

IMPLEMENTATIONS = ("auto", "xla", "cudnn")
# What every cuDNN that jax still supports can do (some do more on newer devices).
_LEAST_CAPABILITY = (8, 0)
_LARGEST_HEAD = 128


def attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Array | None = None,
    causal: bool = False,
    implementation: str = "auto",
) -> Array:
    """softmax(q k^T / sqrt(d)) v in every head (Vaswani et al. 2017, Eq. 1).

    Args:
      query: [n t heads d], any float dtype.
      key, value: [n s heads d], of the same dtype.
      mask: bool, broadcastable to [n heads t s]: False where a query must not look at a key.
      causal: query i looks at keys 0 to i only.
      implementation: "auto", "xla" or "cudnn"; the result is the same to rounding.

    Returns:
      [n t heads d] in the dtype of `query`; the softmax is float32.

    Raises:
      UserError: there is no such implementation.
    """
    check_implementation(implementation)
    if implementation == "auto":
        implementation = choose_implementation(query, key, masked=mask is not None)
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
    query: Array, key: Array, *, masked: bool, device: Any | None = None
) -> str:
    """ "cudnn" where it can do these shapes on this device, else "xla".

    Args:
      query, key: [n t heads d] and [n s heads d]; only shapes and dtypes are read.
      masked: whether there is a mask other than the causal one.
      device: default the first of the default backend.
    """
    device = jax.devices()[0] if device is None else device
    head_dim, lengths = query.shape[-1], (query.shape[1], key.shape[1])
    fits = (
        query.dtype in (jnp.bfloat16, jnp.float16)
        and head_dim % 8 == 0
        and head_dim <= _LARGEST_HEAD
        # A mask becomes a bias, whose gradient needs even lengths.
        and not (masked and any(length % 2 for length in lengths))
    )
    return "cudnn" if fits and _capability(device) >= _LEAST_CAPABILITY else "xla"


def _capability(device: Any) -> tuple[int, ...]:
    """CUDA's compute capability, e.g. (8, 0); (0,) of a device that is not NVIDIA's."""
    if device.platform not in ("gpu", "cuda") or "cuda" not in device.client.platform_version:
        return (0,)
    return tuple(int(part) for part in device.compute_capability.split("."))
