"""Outputs of the layers of an image encoder, and the names by which probes select them.

    layer3/cls       class token after layer 3 of a ViT                       [n d]
    layer3/mean      mean of the patch tokens after layer 3                   [n d]
    layer3/cls_mean  both                                                     [n 2d]
    layer3/patches   patch tokens after layer 3                               [n p d]
    last4/cls        class tokens of the last four layers                     [n 4d]
    last4/mean       means of the patch tokens of the last four layers        [n 4d]
    last4/cls_mean   class tokens of the last four layers, mean of the last   [n 5d]

The layers of convolutional nets are "stage1", "stage2", ...; their patches are the positions of the
feature map, and they have no class token. DINO's linear probe takes last4/cls, I-JEPA's last4/mean,
and DINOv2's the best of last1 and last4 with cls and cls_mean.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp

from ssl_jax.core.arrays import Array
from ssl_jax.core.errors import UserError

_NAME = re.compile(r"(layer|stage|last)([1-9]\d*)/(cls|mean|cls_mean|patches)")


class LayerOutput(NamedTuple):
    """The output of one layer, float32.

    Attributes:
      patches: patch tokens, or the positions of a feature map, in row-major order: [n p d].
      cls: class token [n d]; None without one.
    """

    patches: Array
    cls: Array | None = None


def grid_shape(count: int, height: int, width: int) -> tuple[int, int] | None:
    """Rows and columns of `count` positions on images of `height` x `width`.

    None if the positions form no grid with about the aspect ratio of the images.
    """
    rows = round(math.sqrt(count * height / width))
    if rows == 0 or count % rows or abs(rows / (count // rows) / (height / width) - 1) > 0.2:
        return None
    return rows, count // rows


def is_layer_output(name: str) -> bool:
    """Whether `name` has the form of the names above."""
    return _NAME.fullmatch(name) is not None


def select(layers: Mapping[str, LayerOutput], name: str) -> Array:
    """The output of this name.

    Args:
      layers: the outputs by layer, in any order: "layer1", "layer2", ... or "stage1", ...
      name: one of the names in the docstring of this module.

    Raises:
      UserError: the encoder has no such layer or no class token, or patches of several layers are
        asked for.
    """
    which, number, kind = _NAME.fullmatch(name).groups()
    if not layers:
        raise UserError(
            f"there is no output {name!r}: this method has no layers of a ViT or of a "
            "convolutional net of images"
        )
    names = sorted(layers, key=lambda layer: int(re.sub(r"\D", "", layer)))
    if which == "last":
        chosen = names[-int(number) :] if int(number) <= len(names) else []
    else:
        chosen = [layer for layer in names if layer == which + number]
    if not chosen:
        raise UserError(
            f"there is no output {name!r}: the encoder has {len(names)} layers, {names[0]} to "
            f"{names[-1]}, and last1 to last{len(names)}"
        )
    outputs = [layers[layer] for layer in chosen]
    if kind == "patches":
        if len(outputs) > 1:
            raise UserError(f"output {name!r}: patches are those of one layer; use last1/patches")
        return outputs[0].patches
    if kind != "mean" and outputs[0].cls is None:
        raise UserError(
            f"there is no output {name!r}: the encoder has no class token; use {which}{number}/mean"
        )
    means = [jnp.mean(output.patches, axis=1) for output in outputs]
    if kind == "mean":
        return jnp.concatenate(means, axis=1)
    return jnp.concatenate(
        [output.cls for output in outputs] + means[-1:] * (kind == "cls_mean"), axis=1
    )
