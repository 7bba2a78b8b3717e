"""Encoders by name."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import jax.numpy as jnp

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.models.convnet import convnet
from ssl_jax.models.functional import Net
from ssl_jax.models.resnet import BLOCKS_PER_STAGE, resnet
from ssl_jax.models.transformer import (
    TEXT_FAMILIES,
    TEXT_SIZES,
    text_encoder,
)
from ssl_jax.models.vit import SIZES, vit

# Size and patch of the ViTs that papers name; others by `patch_size`, `dim`, `depth`, `num_heads`.
VITS = ("ti16", "s8", "s14", "s16", "b8", "b14", "b16", "l14", "l16", "h14")

# Name -> function of keyword options that returns the module.
ENCODERS = {
    **{f"resnet{depth}": functools.partial(resnet, depth) for depth in BLOCKS_PER_STAGE},
    "convnet": convnet,
    **{
        f"vit_{name}": functools.partial(
            vit, **SIZES[name.rstrip("0123456789")], patch_size=int(name.lstrip("bhilst"))
        )
        for name in VITS
    },
    **{
        f"{family}_{size}": functools.partial(text_encoder, **TEXT_SIZES[size], **options)
        for family, options in TEXT_FAMILIES.items()
        for size in TEXT_SIZES
    },
}
DTYPES = ("float32", "bfloat16")


def make_encoder(name: str, *, dtype: str = "float32", **options: Any) -> Net:
    """The encoder f: images `[n h w c]`, or a dict of a text's arrays, to `(h, out)`.

    `h` is `[n d]` float32, `out` a dict of every stage's or layer's output by name.

    Args:
      name: a key of `ENCODERS`.
      dtype: "float32" or "bfloat16", of activations; parameters are float32.
      **options: the keyword arguments of the encoder's function, e.g. `width=2, stem="cifar"` of
        `resnet`. One that is None counts as not given.

    Raises:
      UserError: an unknown name, option or dtype, or a bad value of an option.
    """
    if name not in ENCODERS:
        known = ", ".join(ENCODERS)
        raise UserError(f"unknown model {name!r}; models: {known}.{nearest(name, ENCODERS)}")
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}; known are {DTYPES}.{nearest(dtype, DTYPES)}")
    options = {option: value for option, value in options.items() if value is not None}
    known = [key for key in inspect.signature(ENCODERS[name]).parameters if key != "dtype"]
    for option in options:
        if option not in known:
            raise UserError(
                f"{name} has no option {option!r}; its options: {', '.join(known)}."
                f"{nearest(option, known)}"
            )
    return Net(ENCODERS[name](dtype=jnp.dtype(dtype), **options))
