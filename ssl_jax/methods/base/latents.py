"""Codes of images that a decoder maps back to images, and pictures of what single latents do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ssl_jax.core.arrays import Array
from ssl_jax.core.items import Images

TRAVERSED = 12  # latents of a picture, if none are named
OFFSETS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Latents:
    """Images and their codes.

    Attributes:
      z: codes [n k].
      x: the images [n h w c] in [0, 1].
      size: [k], how much each latent says about the images, for their order.
      unit: [k], the step of a traversal in each latent.
      caption: format string of the latent's number and its size.
      note: what a step is and how latents are ordered.
    """

    z: Array
    x: Array
    size: Array
    unit: Array
    caption: str = dataclasses.field(metadata={"static": True})
    note: str = dataclasses.field(metadata={"static": True})


def traversals(
    decode: Callable[[Array], Array],
    latents: Latents,
    example: int = 0,
    numbers: Sequence[int] | None = None,
) -> Images:
    """One image with one latent changed from picture to picture; one row a latent.

    Args:
      decode: codes [m k] -> images [m h w c] in [0, 1].
      latents: of images, among them the one that is changed.
      example: its row.
      numbers: the latents to change, in this order; None: the `TRAVERSED` with the largest size.

    Returns:
      Pictures of the latent plus -3 to 3 steps; the middle one is the reconstruction.
    """
    if numbers is None:
        rows = jnp.argsort(-latents.size)[:TRAVERSED]
    else:
        rows = jnp.asarray(numbers, jnp.int32)
    code = latents.z[example]
    change = jax.nn.one_hot(rows, len(code)) * latents.unit  # (m, k)
    codes = code + change[:, None] * jnp.array(OFFSETS)[:, None]  # (m, 7, k)
    images = decode(codes.reshape(-1, len(code)))
    return Images(
        images.reshape(*codes.shape[:2], *images.shape[1:]),
        row_values=jnp.stack([rows.astype(jnp.float32), latents.size[rows]], axis=1),
        rows=(latents.caption,) * len(rows),
        columns=tuple(f"{offset:+g}" if offset else "0" for offset in OFFSETS),
        note=latents.note,
    )
