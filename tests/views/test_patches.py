"""Patches of a grid and what removes the traces of chromatic aberration, against NumPy."""

import jax
import numpy as np
import pytest

from ssl_jax.views import aberration, patches


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((2, 12, 12, 3)).astype(np.float32)


def test_the_cells_of_an_image_put_together_are_the_image(images):
    corners = np.tile(patches.grid_corners(4), (2, 1, 1))
    tiles = jax.jit(patches.cut, static_argnums=2)(images, corners, 4)
    assert tiles.shape == (2, 9, 4, 4, 3)
    np.testing.assert_array_equal(tiles[1, 5], images[1, 4:8, 8:12])
    np.testing.assert_array_equal(patches.assemble(tiles), images)


def test_a_grid_of_patches_that_overlap(images):
    made = np.asarray(patches.cut_grid(images, size=5, stride=3))
    assert made.shape == (2, 3, 3, 5, 5, 3)  # the last pixel of each side is in none
    for n, i, j in np.ndindex(2, 3, 3):
        np.testing.assert_array_equal(
            made[n, i, j], images[n, 3 * i : 3 * i + 5, 3 * j : 3 * j + 5]
        )
    assert (patches.grid_side(256, 64, 32), patches.grid_side(260, 80, 36)) == (7, 6)  # CPC, v2
    assert patches.grid_side(10, 12, 3) == 0


def test_channels_are_cut_at_their_own_corners(images):
    """And a square that would reach over the edge is moved inside."""
    rng = np.random.default_rng(1)
    corners = rng.integers(0, 9, size=(2, 5, 2)).astype(np.int32)
    shifts = rng.integers(0, 3, size=(2, 5, 3, 2)).astype(np.int32)
    tiles = jax.jit(patches.cut, static_argnums=2)(images, corners, 4, shifts)
    for n, p, c in np.ndindex(2, 5, 3):
        top, left = np.minimum(corners[n, p] + shifts[n, p, c], 8)
        np.testing.assert_array_equal(
            tiles[n, p, :, :, c], images[n, top : top + 4, left : left + 4, c]
        )


def test_integers_reach_both_ends():
    keys = jax.random.split(jax.random.key(0), 500)
    drawn = np.asarray(jax.jit(lambda keys: patches.integers(keys, (2,), -1, 2))(keys))
    np.testing.assert_allclose(np.bincount(drawn.ravel() + 1) / 1000, 0.25, atol=0.05)


def bilinear(row, size):
    """Resizes a row of numbers with the triangle kernel, as wide as an output pixel."""
    ratio = len(row) / size
    width = max(ratio, 1)
    out = []
    for j in range(size):
        centre = (j + 0.5) * ratio
        weights = [max(0, 1 - abs(i + 0.5 - centre) / width) for i in range(len(row))]
        out.append(np.dot(weights, row) / np.sum(weights))
    return np.array(out)


def test_lower_resolution_resizes_down_and_up(images):
    sides = np.array([5, 12], np.int32)
    low = np.asarray(jax.jit(patches.lower_resolution)(images, sides))
    expected = images[0].astype(np.float64)
    for axis in (0, 1):
        expected = np.apply_along_axis(lambda row: bilinear(bilinear(row, 5), 12), axis, expected)
    np.testing.assert_allclose(low[0], expected, atol=1e-5)
    np.testing.assert_allclose(low[1], images[1], atol=1e-6)


def test_projection_removes_its_axis_and_nothing_else(images):
    matrix = aberration.projection_matrix()
    np.testing.assert_allclose(matrix @ aberration.GREEN_MAGENTA, 0, atol=1e-15)
    np.testing.assert_allclose(matrix @ matrix, matrix, atol=1e-15)
    assert np.linalg.matrix_rank(matrix) == 2
    np.testing.assert_allclose(matrix[0], [5 / 6, 1 / 3, -1 / 6])
    projected = np.asarray(jax.jit(aberration.project_colors)(images))
    np.testing.assert_allclose(projected, images @ matrix, atol=1e-6)
    np.testing.assert_allclose(projected @ aberration.GREEN_MAGENTA, 0, atol=1e-6)


def test_dropping_keeps_one_channel_without_its_mean():
    images = np.random.default_rng(0).random((60, 8, 8, 3)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 60)
    dropped = np.asarray(jax.jit(aberration.drop_colors)(keys, images))
    deviations = dropped.std(axis=(1, 2))
    kept = np.argmax(deviations, axis=1)
    assert set(kept) == {0, 1, 2}
    for image, result, channel in zip(images, dropped, kept, strict=True):
        plane = image[..., channel]
        np.testing.assert_allclose(result[..., channel], plane - plane.mean(), atol=1e-6)
        noise = np.delete(result, channel, axis=2)
        assert 0.008 < noise.std() / plane.std() < 0.012
    green = np.asarray(jax.jit(aberration.keep_green)(images))
    np.testing.assert_array_equal(green[..., [0, 2]], 0)
    expected = images[..., 1] - images[..., 1].mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(green[..., 1], expected, atol=1e-6)
