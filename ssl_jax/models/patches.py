"""Images as sequences of patches: splitting, joining, statistics, random order."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from ssl_jax.core.arrays import Array
from ssl_jax.core.errors import UserError


def patch_grid(shape: tuple[int, int, int], patch_size: int) -> tuple[int, int]:
    """The grid (rows, columns) of patches of a view of `shape` (h, w, c).

    Raises:
      UserError: patches do not tile the view.
    """
    height, width, _ = shape
    p = patch_size
    if height % p or width % p:
        raise UserError(
            f"views of {height}x{width} pixels do not divide into patches of model.patch_size={p}"
        )
    return height // p, width // p


def patchify(images: Float[Array, "n h w c"], patch_size: int) -> Float[Array, "n l q"]:
    """Splits images into patches, in row-major order.

    Args:
      images: [n h w c].
      patch_size: side of a patch, pixels.

    Returns:
      [n l q], with q = patch_size^2 c values of each patch, channels last.

    Raises:
      ValueError: h or w is not a multiple of `patch_size`.
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
    """Joins patches to images of `shape` (h, w, c): the inverse of `patchify`."""
    (h, w, c), p = shape, patch_size
    x = patches.reshape(-1, h // p, w // p, p, p, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, h, w, c)


def hide_patches(
    images: Float[Array, "n h w c"], hidden: Bool[Array, "n l"], patch_size: int
) -> Float[Array, "n h w c"]:
    """Replaces hidden patches by the mean of all pixels, to show which ones a net does not see."""
    patches = patchify(images.astype(jnp.float32), patch_size)
    shown = jnp.where(hidden[:, :, None], jnp.mean(patches), patches)
    return unpatchify(shown, images.shape[1:], patch_size)


def patch_statistics(
    patches: Float[Array, "n l q"],
) -> tuple[Float[Array, "n l 1"], Float[Array, "n l 1"]]:
    """Mean and standard deviation of each patch's values (MAE).

    The standard deviation is sqrt(v + 1e-6), with v the unbiased variance.
    """
    mean = jnp.mean(patches, axis=-1, keepdims=True)
    variance = jnp.var(patches, axis=-1, keepdims=True, ddof=1)
    return mean, jnp.sqrt(variance + 1e-6)


def random_order(key: Array, count: int) -> Array:
    """A random order of `count` patches, int32 [count]. Masking keeps the first patches of it."""
    return jnp.argsort(jax.random.uniform(key, (count,))).astype(jnp.int32)
