"""Changes of intensity that depend on the whole image or on a neighbourhood, as in Pillow.

Equalisation, stretched contrast, fewer bits and sharpness, on lines `[n h c w]` float32 in [0, 1].
Pillow works on 8-bit images. Here, too, histograms and bits are those of the 256 levels, but the
results are not rounded to them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ssl_jax.core.arrays import Array
from ssl_jax.views.ops import per_image

_LEVELS = 256
_NIBBLE = 16  # a level is 16 * high + low


def auto_contrast(lines: Float[Array, "n h c w"]) -> Float[Array, "n h c w"]:
    """Stretches each channel to [0, 1]; a channel of one value does not change."""
    low, high = (reduce(lines, axis=(1, 3), keepdims=True) for reduce in (jnp.min, jnp.max))
    spread = high - low
    return jnp.where(spread > 0, (lines - low) / jnp.where(spread > 0, spread, 1), lines)


def posterize(lines: Float[Array, "n h c w"], bits: Int[Array, " n"]) -> Float[Array, "n h c w"]:
    """Keeps the `bits` highest of the 8 bits of a level, 0 to 8; 0 is black."""
    step = per_image(2.0 ** (8 - bits))
    return jnp.floor(jnp.round(lines * 255) / step) * step / 255


def solarize_above(
    lines: Float[Array, "n h c w"], threshold: Float[Array, " n"]
) -> Float[Array, "n h c w"]:
    """Inverts the levels from `threshold` on, 0 to 256."""
    return jnp.where(jnp.round(lines * 255) >= per_image(threshold), 1 - lines, lines)


def add_below_half(
    lines: Float[Array, "n h c w"], amount: Float[Array, " n"]
) -> Float[Array, "n h c w"]:
    """Adds `amount` levels to the levels below 128."""
    brighter = jnp.minimum(lines + per_image(amount) / 255, 1)
    return jnp.where(jnp.round(lines * 255) < 128, brighter, lines)


def sharpen(lines: Float[Array, "n h c w"], factor: Float[Array, " n"]) -> Float[Array, "n h c w"]:
    """Blends with a smoothed image: a factor below 1 smooths, above 1 sharpens.

    The smoothed pixel is the mean of its 3x3 neighbourhood in which the pixel itself counts five
    times. The pixels at the border do not change.
    """
    height, width = lines.shape[1], lines.shape[3]
    if min(height, width) < 3:
        return lines
    rows = lines[:, :-2] + lines[:, 1:-1] + lines[:, 2:]
    box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    centre = lines[:, 1:-1, :, 1:-1]
    inner = centre + per_image(1 - factor) * ((box + 4 * centre) / 13 - centre)
    return lines.at[:, 1:-1, :, 1:-1].set(jnp.clip(inner, 0, 1))


def equalize(lines: Float[Array, "n h c w"]) -> Float[Array, "n h c w"]:
    """Makes the histogram of each channel nearly uniform, as Pillow's ImageOps.equalize.

    With C(i) the number of pixels below level i and s the number of pixels, without those of the
    highest level that occurs, divided by 255: level i becomes (s/2 + C(i)) / s, in whole numbers. A
    channel with s = 0 does not change.
    """
    n, height, channels, width = lines.shape
    level = jnp.round(lines * 255).astype(jnp.int32).swapaxes(1, 2).reshape(n, channels, -1)
    counts = jax.lax.platform_dependent(level, tpu=histogram_dense, default=histogram_scatter)
    highest = level.max(axis=2, keepdims=True)
    other_pixels = height * width - jnp.take_along_axis(counts, highest, axis=2)  # (n, c, 1)
    step = other_pixels // 255
    below = jnp.cumsum(counts, axis=2) - counts
    table = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)  # (n, c, 256)
    equal = jax.lax.platform_dependent(table, level, tpu=look_up_dense, default=look_up_gather)
    equal = equal.reshape(n, channels, height, width).swapaxes(1, 2)
    return jnp.where(step[:, None] > 0, equal / 255, lines)


def histogram_scatter(level: Int[Array, "n c p"]) -> Int[Array, "n c 256"]:
    """The number of pixels of each level, by scattered additions."""

    def count(level: Array) -> Array:
        return jnp.zeros(_LEVELS, jnp.int32).at[level].add(1)

    return jax.vmap(jax.vmap(count))(level)


def histogram_dense(level: Int[Array, "n c p"]) -> Int[Array, "n c 256"]:
    """The same as `histogram_scatter` as a matrix product, for TPUs, where scatters are slow."""
    high, low = _nibbles(level)
    counts = jnp.einsum("ncph,ncpl->nchl", high, low, preferred_element_type=jnp.float32)
    return counts.reshape(*level.shape[:2], _LEVELS).astype(jnp.int32)


def look_up_gather(table: Int[Array, "n c 256"], level: Int[Array, "n c p"]) -> Array:
    """`table[level]` of each channel, float32 `[n c p]`."""
    return jnp.take_along_axis(table, level, axis=2).astype(jnp.float32)


def look_up_dense(table: Int[Array, "n c 256"], level: Int[Array, "n c p"]) -> Array:
    """The same as `look_up_gather` as a matrix product; exact, as bfloat16 holds 0 to 255."""
    high, low = _nibbles(level)
    rows = table.reshape(*table.shape[:2], _NIBBLE, _NIBBLE).astype(jnp.bfloat16)
    of_high = jnp.einsum("ncph,nchl->ncpl", high, rows, preferred_element_type=jnp.float32)
    return (of_high * low).sum(-1)


def _nibbles(level: Array) -> tuple[Array, Array]:
    """The high and the low half of a level as one of 16 each: bfloat16 `[n c p 16]`."""
    return tuple(
        jax.nn.one_hot(half, _NIBBLE, dtype=jnp.bfloat16)
        for half in (level // _NIBBLE, level % _NIBBLE)
    )  # type: ignore[return-value]  # two
