"""Colour: jitter, greyscale, solarisation, normalisation.

Definitions are Pillow's and torchvision's: brightness, contrast and saturation blend the image with
black, with its mean grey and with its greyscale version; grey is the ITU-R 601 luma; hue turns the
H of HSV. One channel is grey already: there hue and saturation change nothing.
"""

from __future__ import annotations

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.config.fields import each, fraction, not_empty, not_negative, positive
from ssl_jax.core.arrays import Array
from ssl_jax.core.errors import UserError
from ssl_jax.views.ops import Probability, between, image_op, per_image, uniforms

LUMA = (0.299, 0.587, 0.114)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

Planes = tuple[Array, ...]  # the channels, each [n h w]


def _planes(lines: Float[Array, "n h c w"]) -> Planes:
    if lines.shape[2] not in (1, 3):
        raise UserError(f"colour ops need 1 or 3 channels, got {lines.shape[2]}")
    return tuple(lines[:, :, channel] for channel in range(lines.shape[2]))


def _luma(planes: Planes) -> Array:
    """Grey of red, green and blue; also of their means, since it is linear."""
    if len(planes) == 1:
        return planes[0]
    terms = (weight * plane for weight, plane in zip(LUMA, planes, strict=True))
    return sum(terms)  # type: ignore[return-value]  # never empty


def grey(lines: Float[Array, "n h c w"]) -> Float[Array, "n h 1 w"]:
    """The luma of each pixel of lines with 1 or 3 channels."""
    return _luma(_planes(lines))[:, :, None]


def _unit(x: Array) -> Array:
    return jnp.clip(x, 0, 1)


# ----------------------------------------------------------------------------------------- jitter


def _shift_hue(planes: Planes, turns: Array) -> Planes:
    """Adds `turns` to the hue of red, green and blue in [0, 1].

    From HSV and back without branches: with H in sixths of a turn and the chroma C = V min over
    channels, a channel is V - C clip(2 - |H - H0|, 0, 1), where |.| is the distance on a circle of
    circumference 6 and H0 the hue opposite to the channel: 3 for red, 5 for green, 1 for blue.
    """
    if len(planes) == 1:
        return planes
    red, green, blue = planes
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    is_red, is_green = value == red, value == green
    difference = jnp.where(is_red, green - blue, jnp.where(is_green, blue - red, red - green))
    sector = jnp.where(is_red, 0.0, jnp.where(is_green, 2.0, 4.0))
    hue = difference / jnp.maximum(chroma, 1e-12) + sector + 6 * turns  # a grey has chroma 0

    def channel(opposite: float) -> Array:
        x = hue - opposite
        distance = jnp.abs(x - 6 * jnp.round(x * (1 / 6)))
        return value - chroma * _unit(2 - distance)

    return channel(3.0), channel(5.0), channel(1.0)


def apply_jitter(
    lines: Float[Array, "n h c w"], amounts: Array, order: Array, *, additive: bool = False
) -> Float[Array, "n h c w"]:
    """Brightness, contrast, saturation and hue changed by given amounts, in given orders.

    Args:
      lines: float32 `[n h c w]` in [0, 1].
      amounts: `[n 4]`: the factors of brightness, contrast and saturation (1: unchanged), and the
        turns to add to the hue. With `additive` the first is added to the image instead.
      order: `[n 4]`, the ops (0 brightness, 1 contrast, 2 saturation, 3 hue) from first to last.

    Returns:
      Lines, clipped to [0, 1] after every op.
    """
    planes = _planes(lines)
    amount_at = jnp.take_along_axis(amounts, order, axis=1)  # [n 4]
    for position in range(4):
        # Which op is due differs from image to image. Three of the four are a blend towards some
        # reference, so a position is one blend towards a selected reference, and one hue shift.
        op = order[:, position, None, None]  # [n 1 1]
        amount = amount_at[:, position, None, None]
        grey = _luma(planes)
        mean = _luma(tuple(plane.mean((1, 2), keepdims=True) for plane in planes))
        reference = jnp.where(op == CONTRAST, mean, jnp.where(op == SATURATION, grey, 0))
        adds = (op == BRIGHTNESS) & additive
        factor, offset = jnp.where(adds, 1, amount), jnp.where(adds, amount, 0)
        background = (1 - factor) * reference + offset
        blended = (_unit(factor * plane + background) for plane in planes)
        shifted = _shift_hue(planes, amount)
        planes = tuple(jnp.where(op == HUE, a, b) for a, b in zip(shifted, blended, strict=True))
    return jnp.stack(planes, axis=2)


def sample_jitter(
    keys: jax.Array,
    *,
    strength: float,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    p: float,
    additive: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Draws `amounts` and `order` (both `[n 4]`) for `apply_jitter`."""
    if not 0 <= strength * hue <= 0.5:
        raise UserError(
            f"color_jitter: strength {strength} times hue {hue} is {strength * hue:.3g} turns; "
            "use 0 to 0.5, where 0.5 allows every hue"
        )
    u = uniforms(keys, 9)
    apply, spread, ranks = u[0], u[1:5], u[5:]
    neutral = (0.0 if additive else 1.0, 1.0, 1.0, 0.0)
    ranges = [
        (-strength * brightness, strength * brightness)
        if additive
        else (max(0.0, 1 - strength * brightness), 1 + strength * brightness),
        (max(0.0, 1 - strength * contrast), 1 + strength * contrast),
        (max(0.0, 1 - strength * saturation), 1 + strength * saturation),
        (-strength * hue, strength * hue),
    ]
    amounts = jnp.stack(
        [between(u, low, high) for u, (low, high) in zip(spread, ranges, strict=True)], axis=1
    )
    amounts = jnp.where((apply < p)[:, None], amounts, jnp.array(neutral))
    return amounts, jnp.argsort(ranks, axis=0).T


@image_op
def color_jitter(
    keys: jax.Array,
    lines: Float[Array, "n h c w"],
    *,
    strength: Annotated[float, not_negative, "Factor of the next four parameters."] = 1.0,
    brightness: Annotated[float, not_negative, "Largest change of the factor."] = 0.8,
    contrast: Annotated[float, not_negative, "Largest change of the factor."] = 0.8,
    saturation: Annotated[float, not_negative, "Largest change of the factor."] = 0.8,
    hue: Annotated[float, fraction, "Largest change of the hue, in turns."] = 0.2,
    p: Probability = 0.8,
    brightness_mode: Annotated[
        Literal["multiplicative", "additive"],
        "Brightness multiplies, or is added as in SimCLR's first released code.",
    ] = "multiplicative",
) -> Float[Array, "n h c w"]:
    """With probability p: brightness, contrast, saturation and hue in random order.

    The factors of the first three are uniform in [max(0, 1 - s b), 1 + s b], the hue turns by a
    uniform in [-s h, s h] turns; s is `strength` (SimCLR, App. A: 0.8, 0.8, 0.8, 0.2 times s). The
    order is drawn anew for every image and the result of each op is clipped to [0, 1].
    `additive` brightness adds a uniform in [-s b, s b], as SimCLR's first released code did.
    """
    additive = brightness_mode == "additive"
    amounts, order = sample_jitter(
        keys,
        strength=strength,
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=hue,
        p=p,
        additive=additive,
    )
    return apply_jitter(lines, amounts, order, additive=additive)


# ------------------------------------------------------------------ greyscale, solarise, normalise


@image_op
def grayscale(
    keys: jax.Array, lines: Float[Array, "n h c w"], *, p: Probability = 0.2
) -> Float[Array, "n h c w"]:
    """With probability p, all channels become the luma (SimCLR, App. A: colour drop)."""
    apply = per_image(uniforms(keys, 1)[0] < p)
    return jnp.where(apply, grey(lines), lines)


@image_op
def solarize(
    keys: jax.Array,
    lines: Float[Array, "n h c w"],
    *,
    threshold: Annotated[float, fraction, "Values at or above it are inverted."] = 0.5,
    p: Probability = 0.2,
) -> Float[Array, "n h c w"]:
    """With probability p, values at or above the threshold are inverted (BYOL, App. B)."""
    apply = per_image(uniforms(keys, 1)[0] < p)
    return jnp.where(apply & (lines >= threshold), 1 - lines, lines)


def standardize(
    lines: Float[Array, "n h c w"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "n h c w"]:
    """(lines - mean) / std by channel, in float32; a single number serves every channel."""
    channels = lines.shape[2]
    if len(mean) not in (1, channels) or len(std) not in (1, channels):
        raise UserError(
            f"normalize: mean {tuple(mean)} and std {tuple(std)} do not fit images of {channels} "
            f"channel{'s' if channels > 1 else ''}; give 1 or {channels} numbers each"
        )
    mean, std = (jnp.array(values, jnp.float32)[:, None] for values in (mean, std))  # [c 1]
    return (lines.astype(jnp.float32) - mean) / std


@image_op
def normalize(
    keys: jax.Array,
    lines: Float[Array, "n h c w"],
    *,
    mean: Annotated[tuple[float, ...], not_empty, "By channel, or one value for all channels."] = (
        0.485,
        0.456,
        0.406,
    ),
    std: Annotated[
        tuple[float, ...], each(positive), not_empty, "By channel, or one value for all channels."
    ] = (
        0.229,
        0.224,
        0.225,
    ),
) -> Float[Array, "n h c w"]:
    """(image - mean) / std by channel; the defaults are ImageNet's. SimCLR does not use it."""
    del keys
    return standardize(lines, mean, std)
