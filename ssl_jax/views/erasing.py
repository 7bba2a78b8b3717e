"""Random erasing (Zhong et al. 2020, https://arxiv.org/abs/1708.04896) as timm computes it."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from ssl_jax.config.fields import each, increasing, positive, positive_fraction
from ssl_jax.core.arrays import Array
from ssl_jax.views.ops import Probability, between, image_op, switch, uniforms

ATTEMPTS = 10  # rectangles drawn before an image is left as it is


def sample_rectangles(
    keys: jax.Array,
    canvas: tuple[int, int],
    *,
    area: tuple[float, float],
    ratio: tuple[float, float],
    p: float,
) -> Bool[Array, "n h w"]:
    """Masks of one random rectangle in each image, or of none.

    The area is uniform in `area` times the canvas, the logarithm of height / width is uniform in
    that of `ratio`. Sides are rounded to pixels. Of ten rectangles, the first that is smaller than
    the canvas in both directions is placed uniformly inside.
    """
    height, width = canvas
    drawn = uniforms(keys, 2 * ATTEMPTS + 3)
    apply, down, right = drawn[-3:]
    pixels = between(drawn[:ATTEMPTS], *area) * (height * width)  # (10, n)
    aspect = jnp.exp(between(drawn[ATTEMPTS : 2 * ATTEMPTS], *map(math.log, ratio)))
    heights = jnp.round(jnp.sqrt(pixels * aspect))
    widths = jnp.round(jnp.sqrt(pixels / aspect))
    fits = (heights < height) & (widths < width)
    # From last to first, so that the first that fits is used; none is a rectangle of height 0.
    box_height, box_width = jnp.zeros_like(apply), jnp.zeros_like(apply)
    for attempt in reversed(range(ATTEMPTS)):
        box_height = jnp.where(fits[attempt], heights[attempt], box_height)
        box_width = jnp.where(fits[attempt], widths[attempt], box_width)
    box_height = jnp.where(apply < p, box_height, 0)
    top = jnp.floor(down * (height - box_height + 1))
    left = jnp.floor(right * (width - box_width + 1))
    rows = _interval(top, box_height, height)
    columns = _interval(left, box_width, width)
    return rows[:, :, None] & columns[:, None, :]


def _interval(first: Array, length: Array, size: int) -> Bool[Array, "n size"]:
    at = jnp.arange(size)
    return (at >= first[:, None]) & (at < (first + length)[:, None])


@image_op
def random_erasing(
    keys: jax.Array,
    lines: Float[Array, "n h c w"],
    *,
    area: Annotated[
        tuple[float, float],
        each(positive_fraction),
        increasing,
        "Range of the rectangle's area, as a fraction of the image.",
    ] = (0.02, 1 / 3),
    ratio: Annotated[
        tuple[float, float],
        each(positive),
        increasing,
        "Range of the rectangle's height / width.",
    ] = (0.3, 1 / 0.3),
    fill: Annotated[
        Literal["pixel", "color", "zero"],
        "Standard normal values: one for each pixel and channel, or for each channel; or zeros.",
    ] = "pixel",
    p: Probability = 0.25,
) -> Float[Array, "n h c w"]:
    """With probability p, replaces a random rectangle by noise.

    It comes after `normalize`, which the standard normal noise assumes; the values are not clipped.
    """
    erased = sample_rectangles(keys, (lines.shape[1], lines.shape[3]), area=area, ratio=ratio, p=p)[
        :, :, None
    ]  # (n, h, 1, w)
    if fill == "zero":
        return jnp.where(erased, 0.0, lines)
    shape = lines.shape[1:] if fill == "pixel" else (1, lines.shape[2], 1)

    def erase(key: jax.Array, erased: Array, image: Array) -> Array:
        noise = jax.random.normal(jax.random.fold_in(key, 1), shape)
        return jnp.where(erased, noise, image)

    some = erased.any((1, 2, 3)).astype(jnp.int32)
    return switch(some, (lambda key, erased, image: image, erase), keys, erased, lines)
