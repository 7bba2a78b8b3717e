"""RandAugment (Cubuk et al. 2020, https://arxiv.org/abs/1909.13719) as timm computes it.

Each image gets `num_ops` operations, drawn from the same list with equal probability and applied
with probability p, at a magnitude of 0 to 10 that is common to all operations. These are timm's
"increasing" operations: a larger magnitude always changes an image more.

A CPU computes for each image the operations that it has drawn. Accelerators compute all of them
for all images and select (`ssl_jax.views.ops.switch`). To keep this cheap, the five operations that
move pixels are one affine map, and the ten others are elementwise but for the statistics of a
channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ssl_jax.config import fields
from ssl_jax.core.arrays import Array
from ssl_jax.core.errors import UserError
from ssl_jax.views import intensity
from ssl_jax.views.color import grey
from ssl_jax.views.ops import fold_in, image_op, per_image, switch, uniforms
from ssl_jax.views.resample import Method
from ssl_jax.views.warp import warp

MAX_MAGNITUDE = 10  # the unit of magnitudes: 10 is the largest change of an operation
_DEGREES, _SHEAR, _SHIFT, _ENHANCE = 30.0, 0.3, 0.45, 0.9  # the largest changes
_MIN_FACTOR = 0.1  # of contrast and so on
_MAX_ADDED = 110.0  # levels

# A share is the magnitude / 10, [n]; a signed one has a random sign.


def _factor(signed: Array) -> Array:
    return jnp.maximum(_MIN_FACTOR, 1 + _ENHANCE * signed)


def _blend(lines: Array, background: Array, signed: Array) -> Array:
    factor = per_image(_factor(signed))
    return jnp.clip(factor * lines + (1 - factor) * background, 0, 1)


# Functions (lines, share, signed share) -> lines.
_INTENSITY: Mapping[str, Callable[[Array, Array, Array], Array]] = MappingProxyType(
    {
        "auto_contrast": lambda lines, share, signed: intensity.auto_contrast(lines),
        "equalize": lambda lines, share, signed: intensity.equalize(lines),
        "invert": lambda lines, share, signed: 1 - lines,
        "posterize": lambda lines, share, signed: intensity.posterize(
            lines, jnp.clip(4 - jnp.floor(4 * share), 0, 8)
        ),
        "solarize": lambda lines, share, signed: intensity.solarize_above(
            lines, 256 - jnp.minimum(256, jnp.floor(256 * share))
        ),
        "solarize_add": lambda lines, share, signed: intensity.add_below_half(
            lines, jnp.minimum(128, jnp.floor(_MAX_ADDED * share))
        ),
        "color": lambda lines, share, signed: _blend(lines, grey(lines), signed),
        "contrast": lambda lines, share, signed: _blend(
            lines, grey(lines).mean((1, 2, 3), keepdims=True), signed
        ),
        "brightness": lambda lines, share, signed: _blend(lines, jnp.zeros(()), signed),
        "sharpness": lambda lines, share, signed: intensity.sharpen(lines, _factor(signed)),
    }
)


def _rotation(signed: Array, height: int, width: int) -> tuple:
    angle = math.radians(_DEGREES) * signed
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, y = width / 2, height / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


# Functions (signed share, height, width) -> the six coefficients of `warp`.
_GEOMETRY: Mapping[str, Callable[[Array, int, int], tuple]] = MappingProxyType(
    {
        "rotate": _rotation,
        "shear_x": lambda signed, height, width: (1, _SHEAR * signed, 0, 0, 1, 0),
        "shear_y": lambda signed, height, width: (1, 0, 0, _SHEAR * signed, 1, 0),
        "translate_x": lambda signed, height, width: (1, 0, _SHIFT * width * signed, 0, 1, 0),
        "translate_y": lambda signed, height, width: (1, 0, 0, 0, 1, _SHIFT * height * signed),
    }
)
OPERATIONS = (*_INTENSITY, *_GEOMETRY)


def apply_operations(
    lines: Float[Array, "n h c w"],
    chosen: Int[Array, " n"],
    magnitude: Float[Array, " n"],
    sign: Float[Array, " n"],
    *,
    operations: tuple[str, ...] = OPERATIONS,
    method: Method = "bicubic",
    fill: tuple[float, ...] = (0.5,),
) -> Float[Array, "n h c w"]:
    """Applies to each image one operation.

    Args:
      lines: float32 in [0, 1], with 1 or 3 channels.
      chosen: index in `operations`; -1 leaves the image as it is.
      magnitude: not negative.
      sign: 1 or -1, of the change by operations that have two directions.
      operations: names in `OPERATIONS`.
      method: interpolation where pixels move.
      fill: colour outside of the image, by channel, or one value for all.

    Raises:
      UserError: `fill` does not fit the channels.
    """
    height, channels, width = lines.shape[1:]
    if len(fill) not in (1, channels):
        raise UserError(
            f"rand_augment: fill {tuple(fill)} does not fit images of {channels} "
            f"channel{'s' if channels > 1 else ''}; give 1 or {channels} numbers"
        )
    share = magnitude / MAX_MAGNITUDE
    signed = sign * share
    branches: list[Callable[..., Array]] = [lambda image, *row: image]
    branch = jnp.zeros_like(chosen)
    for index, name in enumerate(operations):
        if name in _INTENSITY:
            branch = jnp.where(chosen == index, len(branches), branch)
            branches.append(_on_one(_INTENSITY[name]))
    # All operations that move pixels are one branch, with different coefficients.
    coefficients = jnp.zeros((6, len(chosen)), jnp.float32)
    for index, name in enumerate(operations):
        if name in _GEOMETRY:
            values = _GEOMETRY[name](signed, height, width)
            values = jnp.stack([jnp.broadcast_to(x, signed.shape) for x in values])
            coefficients = jnp.where(chosen == index, values, coefficients)
            branch = jnp.where(chosen == index, len(branches), branch)
    colour = jnp.broadcast_to(jnp.asarray(fill, jnp.float32), (channels,))
    if _GEOMETRY.keys() & set(operations):
        branches.append(
            lambda image, share, signed, coefficients: warp(
                image[None], coefficients[None], colour, method=method
            )[0]
        )
    return switch(branch, branches, lines, share, signed, coefficients.T)


def _on_one(operation: Callable[[Array, Array, Array], Array]) -> Callable[..., Array]:
    """An operation of `_INTENSITY` as a function of one image."""
    return lambda image, share, signed, coefficients: operation(
        image[None], share[None], signed[None]
    )[0]


@image_op
def rand_augment(
    keys: jax.Array,
    lines: Float[Array, "n h c w"],
    *,
    num_ops: Annotated[int, fields.between(1, 32), "Operations of each image, in a row."] = 2,
    magnitude: Annotated[
        float, fields.between(0, 30), "Mean magnitude; 10 is the largest change."
    ] = 9.0,
    magnitude_std: Annotated[
        float, fields.not_negative, "Standard deviation of the magnitude."
    ] = 0.5,
    max_magnitude: Annotated[
        float, fields.between(0, 30), "Magnitudes are clipped to 0 and this."
    ] = 10.0,
    operations: Annotated[
        tuple[Literal[OPERATIONS], ...],  # type: ignore[valid-type]  # a tuple of names
        fields.not_empty,
        "The operations to draw from.",
    ] = OPERATIONS,
    method: Annotated[Method, "Interpolation where pixels move."] = "bicubic",
    fill: Annotated[
        tuple[Annotated[float, fields.fraction], ...],
        fields.not_empty,
        "Value outside of the image, by channel, or one value for all channels.",
    ] = (0.5,),
    p: Annotated[
        float, fields.fraction, "Probability that an operation of the `num_ops` is applied."
    ] = 0.5,
) -> Float[Array, "n h c w"]:
    """`num_ops` random operations; the defaults are timm's rand-m9-mstd0.5-inc1.

    Each operation is drawn anew, also one that the image had before, with its own magnitude from a
    normal distribution. Rotations are up to 30 degrees at magnitude 10, shears 0.3, translations
    0.45 of the side, factors of colour, contrast, brightness and sharpness 0.1 to 1.9.
    """

    def layer(lines: Array, number: Array) -> tuple[Array, None]:
        op_keys = fold_in(keys, number)
        choice, apply, direction = uniforms(op_keys, 3)
        noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 1)))(op_keys)
        lines = apply_operations(
            lines,
            jnp.where(apply < p, (choice * len(operations)).astype(jnp.int32), -1),
            jnp.clip(magnitude + magnitude_std * noise, 0, max_magnitude),
            jnp.where(direction < 0.5, -1.0, 1.0),
            operations=operations,
            method=method,
            fill=fill,
        )
        return lines, None

    return jax.lax.scan(layer, lines, jnp.arange(num_ops))[0]
