"""Distortions of small patches: elastic deformation, random tone curves, a smaller crop in zeros.

CPC (van den Oord et al. 2018, section 3.2) and CPC v2 (Henaff et al. 2020, App. A) apply them to
each patch of an image.
"""

from __future__ import annotations

import math
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.config import fields
from ssl_jax.core.arrays import Array
from ssl_jax.core.errors import UserError
from ssl_jax.views.affine import interpolate_gather
from ssl_jax.views.filters import blur_matrix
from ssl_jax.views.ops import Probability, between, fold_in, image_op, per_image, uniforms

_KNOTS = 8  # segments of a tone curve


@image_op
def elastic(
    keys: jax.Array,
    lines: Float[Array, "n h c w"],
    *,
    amplitude: Annotated[
        float, fields.not_negative, "Standard deviation of the displacements, pixels."
    ] = 2.0,
    sigma: Annotated[
        float, fields.positive, "Standard deviation of the filter that smooths them, pixels."
    ] = 6.0,
    shear: Annotated[
        float, fields.between(0, 80), "Largest horizontal shear in either direction, degrees."
    ] = 10.0,
    p: Probability = 0.2,
) -> Float[Array, "n h c w"]:
    """With probability p, an elastic deformation and a shear (Simard et al. 2003).

    Each pixel is moved by a random field: independent normal numbers, smoothed by a Gaussian and
    scaled to `amplitude`. Points outside of the image take its border. Bilinear interpolation.
    CPC v2 uses p = 0.2; its paper prints no other numbers.
    """
    n, height, channels, width = lines.shape
    apply, skew = uniforms(keys, 2)
    noise = jax.vmap(lambda key: jax.random.normal(key, (2, height, width)))(fold_in(keys, 1))
    rows, columns = (
        blur_matrix(jnp.array([sigma]), side, 2 * side - 1)[0] for side in (height, width)
    )
    field = jnp.einsum(
        "ij,nfjk,lk->nfil", rows, noise, columns, precision=jax.lax.Precision.HIGHEST
    )
    # Independent numbers have this variance after the filter, by pixel.
    variance = jnp.sum(rows**2, axis=1)[:, None] * jnp.sum(columns**2, axis=1)
    field = amplitude * field / jnp.sqrt(variance)
    y, x = jnp.arange(height)[:, None] + 0.5, jnp.arange(width)[None, :] + 0.5
    slope = jnp.tan(between(skew, -math.radians(shear), math.radians(shear)))[:, None, None]
    from_y = y + field[:, 0]
    from_x = x + slope * (y - height / 2) + field[:, 1]
    from_y = jnp.clip(from_y, 0.5, height - 0.5).reshape(n, -1)
    from_x = jnp.clip(from_x, 0.5, width - 0.5).reshape(n, -1)
    values, _ = interpolate_gather(lines, from_y, from_x)
    moved = values.reshape(n, height, width, channels).swapaxes(2, 3)
    return jnp.where(per_image(apply < p), moved, lines)


@image_op
def tone_curve(
    keys: jax.Array,
    lines: Float[Array, "n h c w"],
    *,
    strength: Annotated[
        float, fields.fraction, "0: the identity; 1: a curve of independent random segments."
    ] = 0.5,
    p: Probability = 0.2,
) -> Float[Array, "n h c w"]:
    """With probability p, each channel passes a random increasing curve from 0 to 1.

    It changes the histogram of each channel and keeps the order of its values. CPC v2 names a
    "random colour histogram" augmentation with p = 0.2 and prints no formula; this is ours. A curve
    has eight linear segments; their rises are exponential numbers scaled to a sum of 1, blended
    with equal ones by `strength`.
    """
    channels = lines.shape[2]
    apply = uniforms(keys, 1)[0]
    rises = jax.vmap(lambda key: jax.random.exponential(key, (channels, _KNOTS)))(fold_in(keys, 1))
    rises = strength * rises / rises.sum(-1, keepdims=True) + (1 - strength) / _KNOTS
    values = lines[..., None]  # each segment adds the part of its rise that a value has passed
    passed = jnp.clip(values * _KNOTS - jnp.arange(_KNOTS), 0, 1)  # [n h c w knots]
    curved = jnp.einsum("nhcwk,nck->nhcw", passed, rises, precision=jax.lax.Precision.HIGHEST)
    return jnp.where(per_image(apply < p), jnp.clip(curved, 0, 1), lines)


@image_op(float32=False)
def crop_and_pad(
    keys: jax.Array,
    lines: Float[Array, "n h c w"],
    *,
    size: Annotated[int, fields.between(1, 2**15), "Side of the square, pixels."] = 60,
) -> Float[Array, "n h c w"]:
    """A random square of `size` pixels, without interpolation, in the middle of zeros.

    CPC takes 60x60 of patches of 64x64 in this way. The image keeps its size.

    Raises:
      UserError: the square is larger than the image.
    """
    _, height, channels, width = lines.shape
    if size > min(height, width):
        raise UserError(
            f"crop_and_pad: size {size} does not fit in images or patches of {height}x{width} "
            f"pixels; use at most {min(height, width)}"
        )
    u = uniforms(keys, 2)
    top, left = (
        jnp.minimum(jnp.floor(u[i] * (side - size + 1)), side - size).astype(jnp.int32)
        for i, side in enumerate((height, width))
    )

    def crop(image: Array, top: Array, left: Array) -> Array:  # (h, c, w) -> (size, c, size)
        return jax.lax.dynamic_slice(image, (top, 0, left), (size, channels, size))

    square = jax.vmap(crop)(lines, top, left)
    above, before = (height - size) // 2, (width - size) // 2
    padding = ((0, 0), (above, height - size - above), (0, 0), (before, width - size - before))
    return jnp.pad(square, padding)


@image_op
def drop_channels(
    keys: jax.Array, lines: Float[Array, "n h c w"], *, p: Probability = 1.0
) -> Float[Array, "n h c w"]:
    """With probability p, all channels but a random one become 0 (CPC v2, section 3.1).

    A net cannot find neighbouring patches by the shifts between their channels, which chromatic
    aberration causes. Images of one channel do not change.
    """
    channels = lines.shape[2]
    apply, choice = uniforms(keys, 2)
    kept = jnp.minimum(jnp.floor(choice * channels), channels - 1)
    is_kept = jnp.arange(channels)[None, None, :, None] == per_image(kept)
    return jnp.where(is_kept | ~per_image(apply < p), lines, 0)
