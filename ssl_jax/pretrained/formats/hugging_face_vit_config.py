"""Reads and writes the config.json of a Vision Transformer of the `transformers` library.

Every setting that changes what the model computes is either used or refused:

- sizes, heads, biases, register tokens and SwiGLU are options of `model`. `model_options` reads
  them and `check` compares them;
- the activation must be the exact GELU, and LayerNorm's epsilon at most 1e-6, which is ours.
  Published MAE and I-JEPA folders have 1e-12, although they were trained with 1e-6; for activations
  of ordinary size the difference is below rounding errors;
- of MAE's decoder the number of heads is compared. `mask_ratio` and `norm_pix_loss` concern
  training, so `decoder_notes` only tells about them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.models.registry import VITS
from ssl_jax.models.vit import SIZES, ViT

# model_type -> the prefix of the encoder's names in classes that contain it.
PREFIXES = {
    "vit": "vit",
    "vit_mae": "vit",
    "ijepa": "ijepa",
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2_with_registers",
}
FAMILIES = tuple(PREFIXES)
_CLASSES = {
    "vit": "ViTModel",
    "vit_mae": "ViTMAEForPreTraining",
    "ijepa": "IJepaModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
}
_EPSILON = 1e-6  # of our LayerNorm
# Positive integers, with the library's defaults.
_SIZES = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 16,
    "image_size": 224,
}
# Settings that change no feature in evaluation, or that other functions read.
_OTHERS = {
    "_name_or_path", "_attn_implementation", "_attn_implementation_autoset", "apply_layernorm",
    "architectures", "attention_probs_dropout_prob", "attn_implementation",
    "chunk_size_feed_forward", "drop_path_rate", "dtype", "encoder_stride", "finetuning_task",
    "hidden_dropout_prob", "id2label", "initializer_range", "label2id", "layerscale_value",
    "mask_ratio", "norm_pix_loss", "num_channels", "num_labels", "out_features", "out_indices",
    "output_attentions", "output_hidden_states", "pooler_act", "pooler_output_size",
    "problem_type", "reshape_hidden_states", "return_dict", "stage_names", "torch_dtype",
    "transformers_version", "use_mask_token",
}  # fmt: skip
_READ = {
    *_SIZES, "decoder_hidden_size", "decoder_intermediate_size", "decoder_num_attention_heads",
    "decoder_num_hidden_layers", "hidden_act", "intermediate_size", "layer_norm_eps", "mlp_ratio",
    "model_type", "num_register_tokens", "qkv_bias", "use_swiglu_ffn",
}  # fmt: skip
_SHOWN = 4


def model_options(config: Mapping[str, Any], where: str = "config.json") -> dict[str, Any]:
    """The options of `make_encoder`, without a name, for the encoder of a config.json.

    Args:
      config: the content of config.json.
      where: its path, for messages.

    Raises:
      UserError: a setting is not supported or has a bad value.
    """
    kind = config["model_type"]
    if config.get("hidden_act", "gelu") != "gelu":
        raise UserError(
            f"{where} has hidden_act {config['hidden_act']!r:.40}; only 'gelu' is supported"
        )
    epsilon = config.get("layer_norm_eps", _EPSILON)
    if not _is_number(epsilon) or epsilon > _EPSILON:
        raise UserError(
            f"{where} has layer_norm_eps {epsilon!r:.40}; only values up to {_EPSILON:g} are "
            "supported"
        )
    sizes = {name: _size(config, name, where) for name in _SIZES}
    dim, dinov2 = sizes["hidden_size"], kind.startswith("dinov2")
    ratio = config.get("mlp_ratio", 4) if dinov2 else config.get("intermediate_size", 3072)
    if not _is_number(ratio):
        name = "mlp_ratio" if dinov2 else "intermediate_size"
        raise UserError(f"{where} has {name} {ratio!r:.40}; it has to be a positive number")
    options = {
        "dim": dim,
        "depth": sizes["num_hidden_layers"],
        "num_heads": sizes["num_attention_heads"],
        "patch_size": sizes["patch_size"],
        "mlp_ratio": float(ratio if dinov2 else ratio / dim),
        "qkv_bias": bool(config.get("qkv_bias", True)),
        "cls_token": kind != "ijepa",
        "layer_scale": 1.0 if dinov2 else None,
    }
    registers = config.get("num_register_tokens", 4) if kind == "dinov2_with_registers" else 0
    feed_forward = "swiglu" if dinov2 and config.get("use_swiglu_ffn") else "mlp"
    return options | {"num_registers": registers, "feed_forward": feed_forward}


def model_section(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The config section `model` for the encoder of a config.json; arguments as `model_options`."""
    options = model_options(config, where)
    names = (f"vit_{name}" for name in VITS if _is_named(name, options))
    fixed = config["model_type"] in ("vit_mae", "ijepa")
    return {
        "name": next(names, "vit_b16"),
        **options,
        "positions": "sincos" if fixed else "learned",
        "pool": "cls" if options["cls_token"] else "mean",
    }


def _is_named(name: str, options: Mapping[str, Any]) -> bool:
    """Whether an encoder has the width and patches of the Vision Transformer `vit_NAME`."""
    size = name.rstrip("0123456789")
    same_width = SIZES[size]["dim"] == options["dim"]
    return same_width and name == f"{size}{options['patch_size']}"


def check(config: Mapping[str, Any], module: ViT) -> None:
    """Raises `UserError` if our encoder has other settings than this config.json."""
    theirs = model_options(config)
    scaled = module.layer_scale is not None  # its initial value does not matter
    if (theirs["layer_scale"] is not None) == scaled:
        del theirs["layer_scale"]
    differing = {name: value for name, value in theirs.items() if value != getattr(module, name)}
    if differing:
        if "cls_token" in differing and not differing["cls_token"]:
            differing["pool"] = "mean"
        options = " ".join(f"model.{name}={value}" for name, value in differing.items())
        raise UserError(f"config.json belongs to another encoder; set {options}")


def check_decoder(config: Mapping[str, Any], num_heads: int) -> None:
    """Raises `UserError` if MAE's decoder in a folder has another number of heads."""
    theirs = config.get("decoder_num_attention_heads", 16)
    if theirs != num_heads:
        raise UserError(
            f"config.json has decoder_num_attention_heads {theirs!r:.40}, and this run's decoder "
            f"has {num_heads}; set nets.decoder.num_heads={theirs}"
        )


def decoder_notes(config: Mapping[str, Any], hyper: Any) -> list[str]:
    """Lines about settings of MAE's training that differ from this run's `method`."""
    theirs = {
        "mask_ratio": config.get("mask_ratio", 0.75),
        "norm_pix_loss": config.get("norm_pix_loss", False),
    }
    return [
        f"config.json has {name} {value}, and this run has method.{name}={getattr(hyper, name)}"
        for name, value in theirs.items()
        if value != getattr(hyper, name)
    ]


def unknown_settings(config: Mapping[str, Any]) -> list[str]:
    """A line that lists the unknown settings of a config.json; no line if there are none."""
    names = [name for name, value in config.items() if name not in _OTHERS | _READ and value]
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    shown = ", ".join(f"{name} {config[name]!r:.40}" for name in names[:_SHOWN])
    return [f"unknown settings of config.json, not used: {shown}{more}"]


def family(module: ViT, decoder: Any = None) -> str:
    """The model_type for an encoder, and for MAE's decoder if there is one.

    Raises:
      UserError: the library has no such Vision Transformer.
    """
    registers, swiglu = module.num_registers, module.feed_forward == "swiglu"
    if registers or swiglu or module.layer_scale is not None:
        if not module.cls_token or module.layer_scale is None:
            raise UserError(
                "transformers has registers and SwiGLU only in DINOv2's nets, with a class token "
                "and LayerScale; --to=safetensors keeps our names"
            )
        return "dinov2_with_registers" if registers else "dinov2"
    if not module.cls_token:
        return "ijepa"
    return "vit" if decoder is None else "vit_mae"


def description(
    module: ViT, shape: tuple[int, int, int], decoder: Any = None, hyper: Any = None
) -> dict[str, Any]:
    """The content of config.json.

    Args:
      module: the encoder.
      shape: (h, w, c) of its images.
      decoder: MAE's decoder, a `ViTDecoder`; None without one.
      hyper: the hyper-parameters of MAE.

    Raises:
      UserError: see `family`; or MAE's images are not square.
    """
    kind = family(module, decoder)
    height, width, channels = shape
    if height != width:
        raise UserError(
            f"images of {height}x{width} pixels are not square, and transformers has positions "
            "only for square images; use --to=safetensors"
        )
    config = {
        "architectures": [_CLASSES[kind]],
        "model_type": kind,
        "hidden_size": module.dim,
        "num_hidden_layers": module.depth,
        "num_attention_heads": module.num_heads,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": _EPSILON,
        "image_size": height,
        "patch_size": module.patch_size,
        "num_channels": channels,
        "qkv_bias": module.qkv_bias,
        "torch_dtype": "float32",
    }
    if not kind.startswith("dinov2"):
        config["intermediate_size"] = round(module.mlp_ratio * module.dim)
    else:
        ratio = round(module.mlp_ratio)
        if ratio != module.mlp_ratio:
            raise UserError(
                f"transformers has DINOv2's nets only with a whole mlp_ratio, not "
                f"{module.mlp_ratio:g}; use --to=safetensors"
            )
        config |= {
            "mlp_ratio": ratio,
            "use_swiglu_ffn": module.feed_forward == "swiglu",
            "layerscale_value": module.layer_scale,
            "drop_path_rate": module.drop_path,
        }
    if kind == "dinov2_with_registers":
        config["num_register_tokens"] = module.num_registers
    if kind == "vit_mae":
        config |= {
            "decoder_hidden_size": decoder.dim,
            "decoder_num_hidden_layers": decoder.depth,
            "decoder_num_attention_heads": decoder.num_heads,
            "decoder_intermediate_size": round(decoder.mlp_ratio * decoder.dim),
            "mask_ratio": hyper.mask_ratio,
            "norm_pix_loss": hyper.norm_pix_loss,
        }
    return config


def _size(config: Mapping[str, Any], name: str, where: str) -> int:
    """A positive integer, or the side of a square given as two equal integers."""
    default = 14 if name == "patch_size" and config["model_type"] == "dinov2" else _SIZES[name]
    value = config.get(name, default)
    if isinstance(value, (list, tuple)) and len(set(value)) == 1:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{where} has {name} {value!r:.80}; it has to be a positive integer")
    return value


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < math.inf
