"""Reads and writes timm's config.json of a model.

It contains the name of the model and the arguments of its constructor. Arguments that do not change
the shape of an array must be equal; unknown arguments are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.models.resnet import ResNet
from ssl_jax.models.vit import ViT

OWN = "ssl_jax"  # the key of our own description in a config.json that we write
DEPTHS = (18, 34, 50, 101, 152, 200)  # of timm's ResNets

# Arguments that need no comparison: they change the shape of an array, or concern only training,
# the head or the size of the images.
_IGNORED = {
    "attn_drop_rate", "class_token", "depth", "drop_block_rate", "drop_path_rate", "drop_rate",
    "dynamic_img_pad", "dynamic_img_size", "embed_dim", "fc_norm", "fix_init", "global_pool",
    "img_size", "in_chans", "init_values", "mlp_ratio", "no_embed_class", "num_classes",
    "patch_drop_rate", "patch_size", "pos_drop_rate", "proj_drop_rate", "qkv_bias",
    "strict_img_size", "weight_init", "zero_init_last",
}  # fmt: skip
# Part of the name -> difference, of models with our arrays that compute something else.
_DIFFERENT_MODELS = {
    "quickgelu": "another activation",
    "resnetaa": "average pooling before its strides",
    "resnetblur": "a blur before its strides",
}


def check(config: Mapping[str, Any], module: Any) -> None:
    """Raises `UserError` if our encoder has other settings than this config.json.

    Args:
      config: the content of config.json; `architecture` is the name of the model in timm.
      module: the encoder, a `ResNet` or a `ViT`.
    """
    name = config["architecture"]
    for part, difference in _DIFFERENT_MODELS.items():
        if part in name:
            raise UserError(
                f"config.json has architecture {name!r}, which has {difference}; this run's "
                "encoder does not"
            )
    known = {"act_layer": "relu"}
    if isinstance(module, ViT):
        known = {"act_layer": "gelu", "num_heads": module.num_heads}
    for key, value in (config.get("model_args") or {}).items():
        if key in _IGNORED or value is None:
            continue
        if key not in known:
            raise UserError(f"config.json has the unknown argument model_args.{key} {value!r:.40}")
        if value != known[key]:
            hint = f"; set model.{key}={value}" if key == "num_heads" else ""
            raise UserError(
                f"config.json has model_args.{key} {value!r:.40}, and this run's encoder has "
                f"{known[key]}{hint}"
            )


def description(
    module: Any,
    shape: tuple[int, int, int],
    normalization: tuple[Sequence[float], Sequence[float]] | None,
) -> dict[str, Any] | None:
    """The config.json by which `timm.create_model("local-dir:FOLDER", pretrained=True)` builds it.

    Args:
      module: our encoder.
      shape: (h, w, c) of its images.
      normalization: (mean, std) by channel of its images; None: they are in [0, 1].

    Returns:
      None if timm has no such net: a ResNet of another width, stem, shortcut or depth, or with
      selective kernels; a Vision Transformer with registers, SwiGLU or images that are not square.
    """
    height, width, channels = shape
    if isinstance(module, ResNet):
        options = (module.width, module.stem, module.shortcut, module.sk_ratio)
        if options != (1, "imagenet", "conv", 0) or module.depth not in DEPTHS:
            return None
        name, num_features, arguments = f"resnet{module.depth}", 512, {}
        num_features *= 4 if module.depth >= 50 else 1
        first, classifier = "conv1", "fc"
    elif isinstance(module, ViT):
        if module.num_registers or module.feed_forward != "mlp" or height != width:
            return None
        # Any of timm's ViTs is the net that its arguments say.
        name, num_features = "vit_base_patch16_224", module.dim
        first, classifier = "patch_embed.proj", "head"
        arguments = {
            "img_size": height, "patch_size": module.patch_size, "embed_dim": module.dim,
            "depth": module.depth, "num_heads": module.num_heads, "mlp_ratio": module.mlp_ratio,
            "class_token": module.cls_token, "qkv_bias": module.qkv_bias, "fc_norm": False,
            "init_values": module.layer_scale,
            "global_pool": "token" if module.pool == "cls" else "avg",
        }  # fmt: skip
    else:
        return None
    mean, std = normalization or ((0.0,) * channels, (1.0,) * channels)
    pretrained = {
        "input_size": [channels, height, width], "interpolation": "bicubic", "crop_pct": 1.0,
        "mean": list(mean), "std": list(std), "num_classes": 0, "first_conv": first,
        "classifier": classifier, "custom_load": False,
    }  # fmt: skip
    return {
        "architecture": name, "num_classes": 0, "num_features": num_features,
        **({"model_args": arguments} if arguments else {}), "pretrained_cfg": pretrained,
    }  # fmt: skip
