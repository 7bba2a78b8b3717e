"""Small affine maps: rotation, translation, scale and shear, with bilinear interpolation."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from ssl_jax.config import fields
from ssl_jax.views.ops import Probability, between, image_op, uniforms
from ssl_jax.views.resample import Size, height_width, triangle

# Maximum size of the intermediate array of the dense form, per image: 1 MiB of float32.
MAX_DENSE = 2**18


def affine(
    lines: jax.Array,
    matrix: jax.Array,
    shift: jax.Array,
    *,
    size: Size,
    fill: float = 0.0,
) -> jax.Array:
    """Moves the point x of an image to `matrix @ x + shift`.

    Args:
      lines: float32 `[n h c w]`.
      matrix, shift: `[n 2 2]` and `[n 2]` in (y, x) from the image's centre, in input pixels.
      size: size of the output, which covers the same area as the input: 8x8 to 16x16 doubles the
        resolution.
      fill: value outside the input; border pixels are blended with it over one pixel.

    Returns:
      float32 `[n size c size]`.
    """
    out_height, out_width = height_width(size)
    n, height, channels, width = lines.shape
    y = ((jnp.arange(out_height) + 0.5) / out_height - 0.5) * height
    x = ((jnp.arange(out_width) + 0.5) / out_width - 0.5) * width
    y, x = (target.reshape(-1) for target in jnp.meshgrid(y, x, indexing="ij"))  # [p]
    y, x = y - shift[:, :1], x - shift[:, 1:]  # [n p]
    # Written out, because a TPU would round the positions to bfloat16 in a matrix product.
    (a, b), (c, d) = jnp.moveaxis(matrix[..., None], 0, 2)  # [n 1]
    a, b, c, d = (entry / (a * d - b * c) for entry in (a, b, c, d))
    y, x = d * y - b * x + height / 2, a * x - c * y + width / 2  # pixel j covers [j, j + 1)

    # On a TPU gathers are slow and matrix products fast. Elsewhere gathers are faster: on a CPU
    # by a factor of 10 to 25 for 8x8 to 32x32.
    small = out_height * out_width * channels * width <= MAX_DENSE
    values, covered = jax.lax.platform_dependent(
        lines,
        y,
        x,
        tpu=interpolate_dense if small else interpolate_gather,
        default=interpolate_gather,
    )  # [n p c], [n p]
    values = values + (1 - covered)[..., None] * fill
    return values.reshape(n, out_height, out_width, channels).swapaxes(2, 3)


def interpolate_dense(lines: jax.Array, y: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Bilinear values of lines `[n h c w]` at points y, x `[n p]`: `[n p c]` and `[n p]`.

    The second result is the share of a point's weight that is inside the image, 1 in the interior.
    It is computed without gathers, as a matrix product with the weights of all rows and columns.
    """
    rows = triangle(jnp.arange(lines.shape[1]) + 0.5 - y[..., None])  # [n p h]
    columns = triangle(jnp.arange(lines.shape[3]) + 0.5 - x[..., None])  # [n p w]
    highest = jax.lax.Precision.HIGHEST
    between_rows = jnp.einsum("nph,nhcw->npcw", rows, lines, precision=highest)
    values = (between_rows * columns[:, :, None]).sum(-1)  # [n p c]
    return values, rows.sum(-1) * columns.sum(-1)


def interpolate_gather(lines: jax.Array, y: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same as `interpolate_dense`, by gathering the four neighbours of each point."""
    n, height, channels, width = lines.shape
    pixels = lines.swapaxes(2, 3).reshape(n, height * width, channels)
    values, covered = 0.0, 0.0
    top, left = jnp.floor(y - 0.5), jnp.floor(x - 0.5)
    for row in (top, top + 1):
        for column in (left, left + 1):
            weight = triangle(row + 0.5 - y) * triangle(column + 0.5 - x)
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = jnp.where(inside, weight, 0)
            row_index = jnp.clip(row, 0, height - 1).astype(jnp.int32)
            column_index = jnp.clip(column, 0, width - 1).astype(jnp.int32)
            index = (row_index * width + column_index)[..., None]
            values += weight[..., None] * jnp.take_along_axis(pixels, index, axis=1)
            covered += weight
    return values, covered  # type: ignore[return-value]  # arrays after the loop


def sample_affine(
    keys: jax.Array,
    canvas: tuple[int, int],
    *,
    degrees: float,
    translate: float,
    scale: tuple[float, float],
    shear: float,
    p: float,
) -> tuple[jax.Array, jax.Array]:
    """Draws `matrix` `[n 2 2]` and `shift` `[n 2]` for `affine`."""
    apply, angle, skew, zoom, down, right = uniforms(keys, 6)
    angle = between(angle, -math.radians(degrees), math.radians(degrees))
    skew = jnp.tan(between(skew, -math.radians(shear), math.radians(shear)))
    zoom = between(zoom, *scale)
    sin, cos = zoom * jnp.sin(angle), zoom * jnp.cos(angle)
    # zoom * rotation @ [[1, 0], [skew, 1]] in (y, x): the shear moves x along by skew * y.
    matrix = jnp.stack(
        [jnp.stack([cos + sin * skew, sin], -1), jnp.stack([cos * skew - sin, cos], -1)], -2
    )
    height, width = canvas
    shift = jnp.stack(
        [
            between(down, -translate * height, translate * height),
            between(right, -translate * width, translate * width),
        ],
        -1,
    )
    apply = (apply < p)[:, None]
    matrix = jnp.where(apply[..., None], matrix, jnp.eye(2))
    return matrix, jnp.where(apply, shift, 0)


@image_op
def random_affine(
    keys: jax.Array,
    lines: jax.Array,
    *,
    size: Annotated[Literal[0] | Size, "Size of the output; 0: that of the input."] = 0,
    degrees: Annotated[
        float, fields.between(0, 180), "Largest rotation in either direction, degrees."
    ] = 15.0,
    translate: Annotated[
        float,
        fields.fraction,
        "Largest shift in either direction, as a fraction of height and width.",
    ] = 0.1,
    scale: Annotated[
        tuple[float, float],
        fields.each(fields.positive),
        fields.increasing,
        "Range of the scale; above 1 enlarges the content.",
    ] = (0.9, 1.1),
    shear: Annotated[
        float, fields.between(0, 89), "Largest horizontal shear in either direction, degrees."
    ] = 0.0,
    p: Probability = 1.0,
    fill: Annotated[float, fields.fraction, "Value outside the image."] = 0.0,
) -> jax.Array:
    """With probability p, a random affine map about the centre, as torchvision's RandomAffine.

    Rotation is uniform in +-`degrees`, horizontal shear in +-`shear` degrees, scale in `scale`
    (above 1 enlarges the content), translation in +-`translate` times the height and the width.
    Pixels outside the image are `fill`. `size` is the size of the output, 0 for that of the input;
    there is no antialiasing if it is smaller. Use it for small images of which a crop would remove
    too much, such as handwritten digits.
    """
    canvas = (lines.shape[1], lines.shape[3])
    matrix, shift = sample_affine(
        keys, canvas, degrees=degrees, translate=translate, scale=scale, shear=shear, p=p
    )
    return affine(lines, matrix, shift, size=size or canvas, fill=fill)
