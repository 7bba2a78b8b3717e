"""Builds encoders and decoders by name, with the options of a config section."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from ssl_jax.config import fields
from ssl_jax.config.fields import Key, Section
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.models.alexnet import alexnet
from ssl_jax.models.autoencoders import conv_decoder, conv_encoder, mlp_decoder, mlp_encoder
from ssl_jax.models.cbr import SIZES as CBR_SIZES
from ssl_jax.models.cbr import cbr
from ssl_jax.models.colorization_net import color_decoder, colorization_net
from ssl_jax.models.conv_gru import conv_gru
from ssl_jax.models.convnet import convnet
from ssl_jax.models.functional import Net
from ssl_jax.models.grid_nets import vit_decoder, vit_predictor
from ssl_jax.models.image_gpt import IMAGE_GPTS
from ssl_jax.models.inpainting import (
    inpainting_decoder,
    inpainting_discriminator,
    inpainting_encoder,
)
from ssl_jax.models.nin import nin
from ssl_jax.models.options import not_architecture
from ssl_jax.models.pixel_context import pixel_context
from ssl_jax.models.preact_resnet import SIZES as PREACT_SIZES
from ssl_jax.models.preact_resnet import resnet_v2, small_resnet_v2
from ssl_jax.models.resnet import BLOCKS_PER_STAGE, resnet
from ssl_jax.models.table_encoder import table_encoder
from ssl_jax.models.text_models import ENCODER_DECODERS, TEXT_DECODERS, TEXT_ENCODERS
from ssl_jax.models.vit import SIZES, vit
from ssl_jax.models.word_vectors import word_vectors

# Size and patch of the ViTs with a name; others need `patch_size`, `dim`, `depth` and `num_heads`.
VITS = ("ti16", "s8", "s14", "s16", "b8", "b14", "b16", "l14", "l16", "h14", "g14")

# Name -> constructor of the module, with keyword options.
ENCODERS = {
    **{f"resnet{depth}": functools.partial(resnet, depth) for depth in BLOCKS_PER_STAGE},
    **{f"resnet_v2_{depth}": functools.partial(resnet_v2, depth) for depth in PREACT_SIZES},
    "resnet_v2_small": small_resnet_v2,
    "convnet": convnet,
    "alexnet": alexnet,
    **{name: functools.partial(cbr, name) for name in CBR_SIZES},
    "nin": nin,
    "colorization_net": colorization_net,
    "inpainting_encoder": inpainting_encoder,
    "mlp_encoder": mlp_encoder,
    "conv_encoder": conv_encoder,
    **{
        f"vit_{name}": functools.partial(
            vit, **SIZES[name.rstrip("0123456789")], patch_size=int(name.lstrip("bghilst"))
        )
        for name in VITS
    },
    **TEXT_ENCODERS,
    **TEXT_DECODERS,
    **ENCODER_DECODERS,
    **IMAGE_GPTS,
    "word_vectors": word_vectors,
    "conv_gru": conv_gru,
    "table_encoder": table_encoder,
}
DECODERS = {"mlp_decoder": mlp_decoder, "conv_decoder": conv_decoder}
PATCH_DECODERS = {"vit_decoder": vit_decoder}
PREDICTORS = {"vit_predictor": vit_predictor}
CONTEXTS = {"pixel_context": pixel_context}
MAP_DECODERS = {"color_decoder": color_decoder, "inpainting_decoder": inpainting_decoder}
DISCRIMINATORS = {"inpainting_discriminator": inpainting_discriminator}
NETS = {
    **ENCODERS,
    **DECODERS,
    **PATCH_DECODERS,
    **PREDICTORS,
    **CONTEXTS,
    **MAP_DECODERS,
    **DISCRIMINATORS,
}
DTYPES = ("float32", "bfloat16")


def declaration(name: str, where: str, nets: Mapping[str, Callable] = NETS) -> Section:
    """Declares the config section of a net: its name and its options.

    Args:
      name: a key of `nets`.
      where: path of the section, for the error message.
      nets: the constructors by name.

    Raises:
      UserError: `name` is unknown.
    """
    if name not in nets:
        raise UserError(f"{where}.name is {name!r}; use one of {', '.join(nets)}."
                        f"{nearest(str(name), nets)}")  # fmt: skip
    options = fields.section(nets[name])
    return Section({"name": Key(str, doc="The net."), **options.keys})


def architecture(name: str, where: str) -> list[str]:
    """Names of the options that change the parameters or the function of an encoder."""
    keys = declaration(name, where, ENCODERS).keys
    return [option for option, key in keys.items() if not_architecture not in key.marks]


def make_encoder(
    name: str | None, *, dtype: str = "float32", where: str = "model", **options: Any
) -> Net:
    """Makes an encoder f of images `[n h w c]`, audio `[n s]` or a dict of the arrays of texts.

    It returns `(h, out)`: `h` is `[n d]` float32; `out` is a dict of the outputs of stages or
    layers by name.

    Args:
      name: a key of `ENCODERS`.
      dtype: dtype of activations, "float32" or "bfloat16"; parameters are float32.
      where: path of the config section of the options, for error messages.
      **options: the options of `declaration`, and arguments that are not in a config, such as
        `vocab_size` of a text encoder.

    Raises:
      UserError: no name, an unknown name, option or dtype, or a bad value of an option.
    """
    return _make(name, ENCODERS, dtype, where, options)


def make_decoder(
    name: str | None,
    *,
    shape: tuple[int, int, int],
    dtype: str = "float32",
    where: str = "nets.decoder",
    **options: Any,
) -> Net:
    """Makes a decoder: latents `[n d]` to `[n h w c]` float32, without a last activation.

    Args:
      name: a key of `DECODERS`.
      shape: (h, w, c) of the images.
      dtype, where, options: as in `make_encoder`.

    Raises:
      UserError: as `make_encoder`.
    """
    return _make(name, DECODERS, dtype, where, {**options, "shape": shape})


def make_patch_decoder(
    name: str | None,
    *,
    grid: tuple[int, int],
    values: int,
    dtype: str = "float32",
    where: str = "nets.decoder",
    **options: Any,
) -> Net:
    """Makes the decoder of a masked autoencoder, see `ssl_jax.models.grid_nets.ViTDecoder`.

    Args:
      name: a key of `PATCH_DECODERS`.
      grid: (rows, columns) of patches.
      values: number of predicted values of a patch.
      dtype, where, options: as in `make_encoder`.

    Raises:
      UserError: as `make_encoder`.
    """
    return _make(name, PATCH_DECODERS, dtype, where, {**options, "grid": grid, "values": values})


def make_predictor(
    name: str | None,
    *,
    grid: tuple[int, int],
    values: int,
    dtype: str = "float32",
    where: str = "nets.predictor",
    **options: Any,
) -> Net:
    """I-JEPA's predictor, see `ssl_jax.models.grid_nets.ViTPredictor`.

    Args:
      name: a key of `PREDICTORS`.
      grid: (rows, columns) of patches.
      values: numbers of a predicted token.
      dtype, where, options: as in `make_encoder`.

    Raises:
      UserError: as `make_encoder`.
    """
    return _make(name, PREDICTORS, dtype, where, {**options, "grid": grid, "values": values})


def make_context(
    name: str | None,
    *,
    steps: tuple[int, ...],
    dtype: str = "float32",
    where: str = "nets.context",
    **options: Any,
) -> Net:
    """CPC's context net for grids, see `ssl_jax.models.pixel_context.PixelContext`.

    Args:
      name: a key of `CONTEXTS`.
      steps: numbers of rows ahead that are predicted.
      dtype, where, options: as in `make_encoder`.

    Raises:
      UserError: as `make_encoder`.
    """
    return _make(name, CONTEXTS, dtype, where, {**options, "steps": steps})


def make_map_decoder(
    name: str | None,
    *,
    values: int,
    dtype: str = "float32",
    where: str = "nets.decoder",
    **options: Any,
) -> Net:
    """Makes a decoder of maps: `[n h w c]` to a larger map `[n h' w' values]` float32.

    Args:
      name: a key of `MAP_DECODERS`.
      values: numbers of a position of the output.
      dtype, where, options: as in `make_encoder`.

    Raises:
      UserError: as `make_encoder`.
    """
    return _make(name, MAP_DECODERS, dtype, where, {**options, "values": values})


def make_discriminator(
    name: str | None,
    *,
    dtype: str = "float32",
    where: str = "nets.discriminator",
    **options: Any,
) -> Net:
    """Makes a discriminator: images `[n h w c]` to logits `[n]` float32, positive for real ones.

    Args:
      name: a key of `DISCRIMINATORS`.
      dtype, where, options: as in `make_encoder`.

    Raises:
      UserError: as `make_encoder`.
    """
    return _make(name, DISCRIMINATORS, dtype, where, options)


def _make(
    name: str | None, nets: Mapping[str, Callable], dtype: str, where: str, options: dict[str, Any]
) -> Net:
    if name is None:
        raise UserError(f"{where}.name is not set; use one of {', '.join(nets)}")
    if dtype not in DTYPES:
        raise UserError(f"dtype is {dtype!r}; use one of {', '.join(DTYPES)}."
                        f"{nearest(dtype, DTYPES)}")  # fmt: skip
    declared = declaration(name, where, nets)
    arguments = inspect.signature(nets[name]).parameters.keys() - declared.keys.keys()
    constructor_args = {key: options.pop(key) for key in arguments & options.keys()}
    checked = fields.check(declared, {"name": name, **options}, where)
    del checked["name"]
    return Net(nets[name](dtype=jnp.dtype(dtype), **checked, **constructor_args))
