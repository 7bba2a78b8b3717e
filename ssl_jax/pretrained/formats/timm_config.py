"""Compares timm's config.json of a model with our encoder.

It contains the name of the model and the arguments of its constructor. Arguments that do not change
the shape of an array must be equal; unknown arguments are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.models.vit import ViT

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
