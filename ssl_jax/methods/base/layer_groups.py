"""Names the optimizer groups of an encoder's layers, for layer-wise learning rates."""

from __future__ import annotations

_EMBED = ("patch_embed", "cls_token", "register_tokens", "mask_token", "pos_embed")


def layer_group(path: str) -> str:
    """The group of the parameter at `path` in an encoder.

    It is "embed" for everything before the first layer of a ViT, and the name of the first part of
    the path elsewhere: "layer1", "layers" (stacked layers), "norm".
    """
    part = path.partition("/")[0]
    return "embed" if part in _EMBED else part
