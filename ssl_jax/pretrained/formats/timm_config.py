"""Compares the config.json that timm writes beside a model's weights with an encoder here.

It names a model and the arguments that its maker got. Most of them the arrays show. What they do
not show has to be equal; arguments that are not known here are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.models.vit import ViT

# Arguments that arrays show, that concern training or the head, or the size of the images.
_NO_MATTER = {
    "attn_drop_rate", "class_token", "depth", "drop_block_rate", "drop_path_rate", "drop_rate",
    "dynamic_img_pad", "dynamic_img_size", "embed_dim", "fc_norm", "fix_init", "global_pool",
    "img_size", "in_chans", "init_values", "mlp_ratio", "no_embed_class", "num_classes",
    "patch_drop_rate", "patch_size", "pos_drop_rate", "proj_drop_rate", "qkv_bias",
    "strict_img_size", "weight_init", "zero_init_last",
}  # fmt: skip
# Parts of names of models that differ from ours with the same arrays, and in what.
_OTHERS = {
    "quickgelu": "another activation",
    "resnetaa": "average pooling before its strides",
    "resnetblur": "a blur before its strides",
}


def check(config: Mapping[str, Any], module: Any) -> None:
    """Raises `UserError` if weights with this config.json mean something else in our encoder.

    Args:
      config: its contents; `architecture` is the name of the model in timm.
      module: the encoder, a `ResNet` or a `ViT`.
    """
    name = config["architecture"]
    for part, difference in _OTHERS.items():
        if part in name:
            raise UserError(
                f"config.json says architecture {name!r}, which has {difference}; the encoder here "
                "does not"
            )
    known = {"act_layer": "relu"}
    if isinstance(module, ViT):
        known = {"act_layer": "gelu", "num_heads": module.num_heads}
    for key, value in (config.get("model_args") or {}).items():
        if key in _NO_MATTER or value is None:
            continue
        if key not in known:
            raise UserError(
                f"config.json says model_args.{key} {value!r:.40}, which is not known here"
            )
        if value != known[key]:
            hint = f"; set model.{key}={value}" if key == "num_heads" else ""
            raise UserError(
                f"config.json says model_args.{key} {value!r:.40}, and this run's encoder has "
                f"{known[key]}{hint}"
            )
