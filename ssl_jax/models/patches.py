"""Images as sequences of patches: cutting, pasting, and the pixels of a patch normalised."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.core.arrays import Array


def patchify(images: Float[Array, "n h w c"], patch_size: int) -> Float[Array, "n l q"]:
    """The patches of images, row by row; q = patch_size^2 c values, the channel last.

    Raises:
      ValueError: patches do not tile the images.
    """
    n, h, w, c = images.shape
    p = patch_size
    if h % p or w % p:
        raise ValueError(f"patches of {p} do not tile images of {h}x{w}")
    x = images.reshape(n, h // p, p, w // p, p, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, -1, p * p * c)


def unpatchify(
    patches: Float[Array, "n l q"], shape: tuple[int, int, int], patch_size: int
) -> Float[Array, "n h w c"]:
    """Images of `shape` (h, w, c) from their patches: the inverse of `patchify`."""
    (h, w, c), p = shape, patch_size
    x = patches.reshape(-1, h // p, w // p, p, p, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, h, w, c)


def patch_statistics(
    patches: Float[Array, "n l q"],
) -> tuple[Float[Array, "n l 1"], Float[Array, "n l 1"]]:
    """(mean, standard deviation) of each patch's values: variance unbiased, plus 1e-6 (MAE)."""
    mean = jnp.mean(patches, axis=-1, keepdims=True)
    variance = jnp.var(patches, axis=-1, keepdims=True, ddof=1)
    return mean, jnp.sqrt(variance + 1e-6)


def random_order(key: Array, count: int) -> Array:
    """A random order of `count` patches, int32 [count], of which a mask keeps the first ones."""
    return jnp.argsort(jax.random.uniform(key, (count,))).astype(jnp.int32)
