"""Pictures of straight lines between two images: in the space of codes, and in that of pixels."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from ssl_jax.core.arrays import Array
from ssl_jax.core.items import Images, Item

_STEPS = 7  # pictures of a line, with its ends


def interpolations(decode: Callable[[Array], Array], codes: Array, x: Array) -> dict[str, Item]:
    """Lines from each image to the next one; the last one leads to the first.

    Args:
      decode: codes [m k] -> images [m h w c] in [0, 1].
      codes: [n k], of the images.
      x: the images [n h w c] in [0, 1].

    Returns:
      "Interpolations", decoded from codes on the line between two codes, and "Interpolations of
      pixels", the mixtures of both images.
    """
    share = jnp.linspace(0.0, 1.0, _STEPS)

    def line(rows: Array) -> Array:
        """[n ...] to [n steps ...]."""
        weight = share.reshape(1, -1, *[1] * (rows.ndim - 1))
        return (1 - weight) * rows[:, None] + weight * jnp.roll(rows, -1, axis=0)[:, None]

    on_line = line(codes)  # (n, steps, k)
    decoded = decode(on_line.reshape(-1, codes.shape[-1]))
    columns = tuple(f"{100 * step / (_STEPS - 1):.0f}%" for step in range(_STEPS))
    return {
        "Interpolations": Images(
            decoded.reshape(*on_line.shape[:2], *decoded.shape[1:]),
            inputs=x,
            columns=columns,
            note="Decoded from the straight line between the codes of an image and the next one.",
        ),
        "Interpolations of pixels": Images(
            line(x),
            columns=columns,
            note="Mixtures of the same pairs of images.",
        ),
    }
