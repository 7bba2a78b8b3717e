"""I-JEPA's blocks: sizes, places, contexts without targets, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.views import blocks

GRID = (14, 14)
BLOCKS = blocks.Grid(*GRID)
TARGET = blocks.BlockSize(BLOCKS, (0.15, 0.2), (0.75, 1.5))
CONTEXT = blocks.BlockSize(BLOCKS, (0.85, 1.0), (1.0, 1.0))


@pytest.mark.parametrize(
    "size", [TARGET, CONTEXT, blocks.BlockSize(blocks.Grid(4, 6), (0.2, 0.5), (0.5, 2))]
)
def test_sizes_are_the_released_codes(size):
    """One number decides area and aspect; a block is smaller than the grid."""
    rows, columns = size.grid.rows, size.grid.columns
    areas = []
    for share in np.linspace(0, 0.999, 25):
        area = int(rows * columns * (size.scale[0] + share * (size.scale[1] - size.scale[0])))
        aspect = size.aspect[0] + share * (size.aspect[1] - size.aspect[0])
        height = min(round(np.sqrt(area * aspect)), rows - 1)
        width = min(round(np.sqrt(area / aspect)), columns - 1)
        assert tuple(map(int, size.draw(share))) == (height, width), share
        areas.append(height * width)
    assert max(areas) <= size.largest <= max(areas) * 1.1


def test_blocks_are_rectangles_at_every_place_but_the_last():
    size = jnp.int32(5), jnp.int32(7)
    draw = jax.jit(lambda key: blocks.block_masks(key, size, BLOCKS, 4))
    seen = np.zeros((14, 14), int)
    for number in range(100):
        for mask in np.asarray(draw(jax.random.key(number))):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert (len(rows), len(columns)) == (5, 7) and mask.sum() == 35
            seen[rows[0], columns[0]] += 1
    assert (seen[:9, :7] > 0).mean() > 0.95 and seen.sum() == seen[:9, :7].sum() == 400


def test_blocks_of_the_whole_grid_reach_its_last_row_and_column():
    grid = blocks.Grid(4, 4, whole=True)
    size = jnp.int32(2), jnp.int32(3)
    draw = jax.jit(lambda key: blocks.block_masks(key, size, grid, 50))
    seen = np.zeros((4, 4), int)
    for mask in np.asarray(draw(jax.random.key(0))):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert (len(rows), len(columns)) == (2, 3) and mask.sum() == 6
        seen[rows[0], columns[0]] += 1
    assert (seen[:3, :2] > 0).all() and seen.sum() == seen[:3, :2].sum()
    context = blocks.BlockSize(grid, (0.85, 1.0), (1.0, 1.0))
    assert context.largest == 16 and tuple(map(int, context.draw(0.5))) == (4, 4)
    targets = jnp.zeros((1, 4, 4), bool).at[0, 1, 1].set(True)
    mask = blocks.context_mask(jax.random.key(1), context.draw(0.5), grid, targets, 4)
    np.testing.assert_array_equal(mask, ~targets[0])


def test_contexts_and_targets_are_disjoint_unless_that_leaves_too_little():
    draw = jax.jit(
        lambda key, share: (
            targets := blocks.block_masks(key, TARGET.draw(share), BLOCKS, 4),
            blocks.context_mask(
                jax.random.fold_in(key, 1), CONTEXT.draw(share), BLOCKS, targets, 10
            ),
        )
    )
    for number in range(30):
        targets, context = draw(jax.random.key(number), number / 30)
        assert context.sum() > 10 and not np.any(context & np.asarray(targets).any(axis=0))


def test_the_last_targets_may_overlap_a_context_first():
    """Targets 0 and 1 are halves of the grid: without them a block has no patches."""
    halves = jnp.zeros((2, 6, 6), bool).at[0, :3].set(True).at[1, 3:].set(True)
    size = jnp.int32(5), jnp.int32(5)
    grid = blocks.Grid(6, 6)
    draw = jax.jit(lambda key: blocks.context_mask(key, size, grid, halves, 4))
    context = draw(jax.random.key(0))
    assert not np.any(context & halves[0]) and np.any(context & halves[1])


def test_places_are_row_by_row_and_the_last_ones_are_left_out():
    mask = jnp.zeros((3, 4), bool).at[0, 2].set(True).at[1, 1].set(True).at[2, 3].set(True)
    places, real = blocks.padded_places(mask, 5)
    np.testing.assert_array_equal(real, [True, True, True, False, False])
    np.testing.assert_array_equal(places[:3], [2, 5, 11])
    places, real = blocks.padded_places(mask, 2)
    np.testing.assert_array_equal(places, [2, 5])
    assert real.all()


def test_masks_of_blocks_have_at_most_the_requested_patches():
    """And most of them exactly; unions of rectangles of at least 4 patches where these fit."""
    counts = np.r_[0, 1, np.arange(10, 99)]
    keys = jax.random.split(jax.random.key(0), len(counts))
    draw = jax.jit(jax.vmap(lambda key, count: blocks.mask_of_blocks(key, count, GRID)))
    masks = np.asarray(draw(keys, counts))
    sizes = masks.sum(axis=(1, 2))
    assert np.all(sizes <= counts) and sizes[0] == 0
    assert np.mean(sizes[2:] / counts[2:]) > 0.85 and np.mean(sizes == counts) > 0.3
    # Blocks: most masked patches have a masked neighbour to the right or left, and above or below.
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    beside = padded[:, 1:-1, :-2] | padded[:, 1:-1, 2:]
    above = padded[:, :-2, 1:-1] | padded[:, 2:, 1:-1]
    assert (beside & masks).sum() > 0.85 * masks.sum()
    assert (above & masks).sum() > 0.85 * masks.sum()
    # Every patch is masked sometimes, those in the middle more often than corners.
    assert masks.any(axis=0).all() and masks.mean(axis=0).max() < 0.6


def test_blocks_of_a_mask_are_smaller_than_the_grid():
    """An area of 12 and an aspect of 3 are 6 rows and 2 columns: as many rows as the grid has."""
    draw = jax.jit(
        lambda key, aspect: blocks.mask_of_blocks(
            key, 12, (6, 4), smallest=12, aspect=(aspect, aspect)
        ),
        static_argnums=1,
    )
    assert not np.any(draw(jax.random.key(1), 3.0))
    assert np.any(draw(jax.random.key(1), 1.0))
