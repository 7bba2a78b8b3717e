"""Rectangular blocks of patches, of I-JEPA (Assran et al. 2023) and iBOT (Zhou et al. 2022).

I-JEPA's targets and contexts: sizes are drawn once per batch, so that the targets of all images
have the same size. Positions are drawn for each image. Arrays have fixed shapes: blocks are padded
to the largest possible size.

iBOT's masks are unions of blocks of random sizes and places (`mask_of_blocks`), as in BEiT.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

Array = jax.Array
_ATTEMPTS = 20  # positions tried for a context before a target may overlap it
_BLOCK_ATTEMPTS = 10  # blocks tried in a row before a mask stays smaller than requested


@dataclasses.dataclass(frozen=True)
class Grid:
    """The patches that blocks are cut from.

    Attributes:
      rows, columns: of patches.
      whole: blocks may be as large as the grid, and reach its last row and column. Without it they
        do neither, as in the released code: the last possible offset is excluded, unless it is the
        only one.
    """

    rows: int
    columns: int
    whole: bool = False

    @property
    def largest_block(self) -> tuple[int, int]:
        """(height, width)."""
        less = 0 if self.whole else 1
        return self.rows - less, self.columns - less

    def offsets(self, size: tuple[Array, Array]) -> tuple[Array, Array]:
        """How many places a block of (height, width) has below each other, and side by side."""
        more = 1 if self.whole else 0
        height, width = size
        down = jnp.maximum(self.rows - height + more, 1)
        return down, jnp.maximum(self.columns - width + more, 1)


@dataclasses.dataclass(frozen=True)
class BlockSize:
    """The sizes of a kind of block.

    Attributes:
      grid: of patches.
      scale: smallest and largest area, as a fraction of the grid's.
      aspect: smallest and largest height / width.
    """

    grid: Grid
    scale: tuple[float, float]
    aspect: tuple[float, float]

    def draw(self, share: Array | float) -> tuple[Array, Array]:
        """(height, width), int32 [], for a number in [0, 1) that sets both area and aspect."""
        highest, widest = self.grid.largest_block
        area = jnp.floor(self.grid.rows * self.grid.columns * _between(self.scale, share))
        aspect = _between(self.aspect, share)
        height = jnp.clip(jnp.round(jnp.sqrt(area * aspect)), 1, highest)
        width = jnp.clip(jnp.round(jnp.sqrt(area / aspect)), 1, widest)
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


def block_masks(key: Array, size: tuple[Array, Array], grid: Grid, count: int) -> Array:
    """Masks of `count` blocks of (height, width) at random places: bool [count rows columns]."""
    height, width = size
    down, across = grid.offsets(size)
    top_share, left_share = jax.random.uniform(key, (2, count))
    top = jnp.floor(top_share * down).astype(jnp.int32)
    left = jnp.floor(left_share * across).astype(jnp.int32)
    row, column = jnp.arange(grid.rows), jnp.arange(grid.columns)
    in_rows = (row >= top[:, None]) & (row < top[:, None] + height)
    in_columns = (column >= left[:, None]) & (column < left[:, None] + width)
    return in_rows[:, :, None] & in_columns[:, None, :]


def context_mask(
    key: Array, size: tuple[Array, Array], grid: Grid, targets: Array, smallest: int
) -> Array:
    """Mask of a random block without the target blocks: bool [rows columns].

    Random positions are tried until more than `smallest` patches are left. After 20 failures the
    last target may overlap the context, after 20 more also the one before it, and so on.

    Args:
      key: PRNG key of the image.
      size: (height, width) of the block.
      grid: of patches.
      targets: bool [t rows columns].
      smallest: see above.
    """
    count, nothing = len(targets), jnp.zeros(targets.shape[1:], bool)
    levels = [
        jnp.any(targets[: count - dropped], axis=0) if dropped < count else nothing
        for dropped in range(count + 1)
    ]
    excluded = jnp.repeat(jnp.stack(levels), _ATTEMPTS, axis=0)  # (tries, rows, columns)
    tries = block_masks(key, size, grid, len(excluded)) & ~excluded
    enough = tries.sum(axis=(1, 2)) > smallest
    return tries[jnp.where(enough.any(), jnp.argmax(enough), len(tries) - 1)]


def mask_of_blocks(
    key: Array,
    count: Array | int,
    grid: tuple[int, int],
    *,
    smallest: int = 4,
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Array:
    """A union of random blocks with at most `count` patches: bool [rows columns].

    As in the released codes of BEiT, iBOT and DINOv2, blocks are added until there are `count`
    patches. The area of a block is uniform between `smallest` and the number of missing patches,
    the logarithm of its aspect ratio is uniform, and it is smaller than the grid in both
    directions. A block that adds no patch, or too many, is drawn again; after 10 failures in a row
    the mask stays smaller than requested.

    Args:
      key: PRNG key of the mask.
      count: requested number of patches; 0 gives an empty mask.
      grid: (rows, columns) of patches.
      smallest: smallest area of a block, patches.
      aspect: smallest and largest height / width.
    """
    rows, columns = grid
    count = jnp.asarray(count, jnp.int32)
    row, column = jnp.arange(rows)[:, None], jnp.arange(columns)[None, :]
    log_aspect = math.log(aspect[0]), math.log(aspect[1])

    def is_unfinished(state: tuple[Array, Array, Array]) -> Array:
        mask, failures, _ = state
        return (mask.sum() < count) & (failures < _BLOCK_ATTEMPTS)

    def add_block(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        mask, failures, number = state
        shares = jax.random.uniform(jax.random.fold_in(key, number), (4,))
        missing = count - mask.sum()
        area = smallest + shares[0] * (missing - smallest)
        ratio = jnp.exp(_between(log_aspect, shares[1]))
        height = jnp.round(jnp.sqrt(area * ratio)).astype(jnp.int32)
        width = jnp.round(jnp.sqrt(area / ratio)).astype(jnp.int32)
        top = jnp.floor(shares[2] * (rows - height + 1)).astype(jnp.int32)
        left = jnp.floor(shares[3] * (columns - width + 1)).astype(jnp.int32)
        block = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
        added = (block & ~mask).sum()
        is_valid = (height < rows) & (width < columns) & (added > 0) & (added <= missing)
        return mask | (block & is_valid), jnp.where(is_valid, 0, failures + 1), number + 1

    start = jnp.zeros(grid, bool), jnp.int32(0), jnp.int32(0)
    return jax.lax.while_loop(is_unfinished, add_block, start)[0]


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
