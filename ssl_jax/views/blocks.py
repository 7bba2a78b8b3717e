"""Rectangular blocks of patches: I-JEPA's targets and contexts (Assran et al. 2023, Sec. 3).

Sizes are drawn once per batch, so that the targets of all images have the same size. Positions are
drawn for each image. Arrays have fixed shapes: blocks are padded to the largest possible size.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

Array = jax.Array
_ATTEMPTS = 20  # positions tried for a context before a target may overlap it


@dataclasses.dataclass(frozen=True)
class BlockSize:
    """The sizes of a kind of block.

    Attributes:
      grid: (rows, columns) of patches.
      scale: smallest and largest area, as a fraction of the grid's.
      aspect: smallest and largest height / width.
    """

    grid: tuple[int, int]
    scale: tuple[float, float]
    aspect: tuple[float, float]

    def draw(self, share: Array | float) -> tuple[Array, Array]:
        """(height, width), int32 [], for a number in [0, 1) that sets both area and aspect.

        Blocks are smaller than the grid in both directions, as in the released code.
        """
        rows, columns = self.grid
        area = jnp.floor(rows * columns * _between(self.scale, share))
        aspect = _between(self.aspect, share)
        height = jnp.clip(jnp.round(jnp.sqrt(area * aspect)), 1, rows - 1)
        width = jnp.clip(jnp.round(jnp.sqrt(area / aspect)), 1, columns - 1)
        return height.astype(jnp.int32), width.astype(jnp.int32)

    @property
    def largest(self) -> int:
        """Number of patches of the largest possible block."""
        return _largest(self)


@functools.cache
def _largest(size: BlockSize) -> int:
    with jax.ensure_compile_time_eval():  # also while a step is traced
        height, width = jax.vmap(size.draw)(jnp.linspace(0, 1, 4001))
        return int(jnp.max(height * width))


def _between(ends: tuple[float, float], share: Array | float) -> Array:
    return jnp.float32(ends[0]) + jnp.asarray(share, jnp.float32) * (ends[1] - ends[0])


def block_masks(key: Array, size: tuple[Array, Array], grid: tuple[int, int], count: int) -> Array:
    """Masks of `count` blocks at random places: bool [count rows columns].

    As in the released code the last possible offset is excluded, unless it is the only one.
    """
    rows, columns = grid
    height, width = size
    top_share, left_share = jax.random.uniform(key, (2, count))
    top = jnp.floor(top_share * jnp.maximum(rows - height, 1)).astype(jnp.int32)
    left = jnp.floor(left_share * jnp.maximum(columns - width, 1)).astype(jnp.int32)
    row, column = jnp.arange(rows), jnp.arange(columns)
    in_rows = (row >= top[:, None]) & (row < top[:, None] + height)
    in_columns = (column >= left[:, None]) & (column < left[:, None] + width)
    return in_rows[:, :, None] & in_columns[:, None, :]


def context_mask(key: Array, size: tuple[Array, Array], targets: Array, smallest: int) -> Array:
    """Mask of a random block without the target blocks: bool [rows columns].

    Random positions are tried until more than `smallest` patches are left. After 20 failures the
    last target may overlap the context, after 20 more also the one before it, and so on.

    Args:
      key: PRNG key of the image.
      size: (height, width) of the block.
      targets: bool [t rows columns].
      smallest: see above.
    """
    count, rows, columns = targets.shape
    grid = rows, columns
    levels = [
        jnp.any(targets[: count - dropped], axis=0) if dropped < count else jnp.zeros(grid, bool)
        for dropped in range(count + 1)
    ]
    excluded = jnp.repeat(jnp.stack(levels), _ATTEMPTS, axis=0)  # (tries, rows, columns)
    tries = block_masks(key, size, grid, len(excluded)) & ~excluded
    enough = tries.sum(axis=(1, 2)) > smallest
    return tries[jnp.where(enough.any(), jnp.argmax(enough), len(tries) - 1)]


def padded_places(mask: Array, length: int) -> tuple[Array, Array]:
    """The patches of a mask in row-major order.

    Args:
      mask: bool [rows columns].
      length: maximum number of patches; further ones are dropped.

    Returns:
      Indices int32 [length] and a mask bool [length], False for padding.
    """
    flat = mask.reshape(-1)
    order = jnp.argsort(~flat, stable=True)[:length].astype(jnp.int32)
    return order, flat[order]
