"""The stages of a convolutional encoder, and its last map, which decoders take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from ssl_jax.core.errors import UserError
from ssl_jax.models.functional import Net


def stage_names(out: Mapping[str, Any]) -> list[str]:
    """The names of the stages in an encoder's outputs, the first one first; empty for a ViT."""
    names = [name for name in out if name.startswith("stage")]
    return sorted(names, key=lambda name: int(name.removeprefix("stage")))


def last_map(out: Mapping[str, Any]) -> Any:
    """The last feature map [n h w c] of a convolutional net, from its outputs by name.

    It is "map", the last pooling of AlexNet, or else the stage with the highest number.

    Raises:
      UserError: the net has none.
    """
    if "map" in out:
        return out["map"]
    names = stage_names(out)
    if not names:
        raise UserError(
            "this method takes the feature map of a convolutional net; set model.name to convnet, "
            "alexnet, nin or resnet..."
        )
    return out[names[-1]]


def last_map_shape(
    encoder: Net, x: jax.ShapeDtypeStruct, *, method: str, name: str
) -> jax.ShapeDtypeStruct:
    """The shape of `last_map` for images like `x` [n h w c].

    Args:
      encoder: f.
      x: shape and dtype of the images.
      method, name: of the method and of the encoder, for the error message.

    Raises:
      UserError: the encoder has no stages, or the images are too small for them.
    """

    def outputs(key: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        return encoder.apply(*encoder.init(key, x), x, train=False)[0][1]

    out = jax.eval_shape(outputs, jax.random.key(0), x)
    names = stage_names(out)
    if not names:
        raise UserError(
            f"{method} needs an encoder with stages of maps; model.name={name} has none; use a "
            "convolutional net"
        )
    last = last_map(out)
    if not last.size:
        raise UserError(
            f"views of {x.shape[1]}x{x.shape[2]} pixels are too small for the {len(names)} "
            f"stages of {name}; use larger views or fewer strides"
        )
    return last
