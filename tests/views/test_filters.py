"""Blur, Sobel, noise and cutout against NumPy and SciPy in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from ssl_jax.views import filters, image
from ssl_jax.views.ops import uniforms


def make_images(n=4, height=30, width=26, channels=3, seed=0):
    return np.random.default_rng(seed).random((n, height, width, channels)).astype(np.float32)


def apply(op, images, **parameters):
    keys = jax.random.split(jax.random.key(0), len(images))
    return np.asarray(jax.jit(functools.partial(op, **parameters))(keys, images))


def blur_axis(pixels, sigma, kernel_size, axis):
    """A truncated Gaussian renormalised over what lies inside, pixel by pixel."""
    pixels = np.moveaxis(pixels.astype(np.float64), axis, 0)
    out = np.zeros_like(pixels)
    reach = kernel_size // 2
    for i in range(len(pixels)):
        total = 0.0
        for j in range(max(0, i - reach), min(len(pixels), i + reach + 1)):
            weight = math.exp(-((i - j) ** 2) / (2 * sigma**2))
            out[i] += weight * pixels[j]
            total += weight
        out[i] /= total
    return np.moveaxis(out, 0, axis)


@pytest.mark.parametrize(
    ("shape", "kernel_size", "used"),
    [((30, 26), 0, 3), ((30, 26), 9, 9), ((150, 64), 0, 15), ((16, 16), 0, 1), ((8, 8), 23, 23)],
)
def test_blur_equals_numpy(shape, kernel_size, used):
    images = make_images(2, *shape)
    ours = apply(image.gaussian_blur, images, kernel_size=kernel_size, sigma=(1.3, 1.3), p=1.0)
    expected = blur_axis(blur_axis(images, 1.3, used, 1), 1.3, used, 2)
    np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_wide_blur_equals_scipy_inside():
    images = make_images(1, 64, 64, 1)
    ours = apply(image.gaussian_blur, images, kernel_size=23, sigma=(2.0, 2.0), p=1.0)
    expected = scipy.ndimage.gaussian_filter(images[0, ..., 0].astype(np.float64), 2.0, radius=11)
    np.testing.assert_allclose(ours[0, 11:-11, 11:-11, 0], expected[11:-11, 11:-11], atol=1e-6)


def test_blur_in_blocks_equals_the_dense_products():
    lines = make_images(2, 130, 180).swapaxes(2, 3)
    sigma = jnp.array([0.7, 2.0])
    rows, columns = filters.blur_matrix(sigma, 130, 13), filters.blur_matrix(sigma, 180, 13)
    dense = jax.jit(filters.blur_dense)(lines, rows, columns)
    split = jax.jit(functools.partial(filters.blur_blocks, kernel_size=13))(lines, rows, columns)
    np.testing.assert_allclose(split, dense, atol=1e-6)
    assert [len(filters.blocks(size, 13)) for size in (130, 180)] == [2, 3]


@pytest.mark.parametrize(("size", "kernel_size"), [(224, 23), (150, 15), (448, 45), (20, 23)])
def test_blocks_hold_the_band(size, kernel_size):
    matrix = np.asarray(filters.blur_matrix(jnp.array([2.0]), size, kernel_size))[0]
    assert ((matrix > 0).sum(1) <= kernel_size).all()
    rebuilt = np.zeros_like(matrix)
    for outputs, inputs in filters.blocks(size, kernel_size):
        rebuilt[outputs, inputs] = matrix[outputs, inputs]
    np.testing.assert_array_equal(rebuilt, matrix)
    assert len(filters.blocks(224, 23)) == 4


def test_blur_draws_sigma_and_whether():
    n = 4000
    images = np.zeros((n, 9, 9, 1), np.float32)
    images[:, 4, 4] = 1  # an impulse shows the kernel
    blurred = apply(image.gaussian_blur, images, kernel_size=3, sigma=(0.5, 2.0), p=0.6)
    changed = (blurred != images).any((1, 2, 3))
    assert abs(changed.mean() - 0.6) < 0.03
    # Neighbour over centre is exp(-1 / (2 sigma^2)).
    neighbour, centre = blurred[changed][:, 4, 5, 0], blurred[changed][:, 4, 4, 0]
    sigma = np.sqrt(-0.5 / np.log(neighbour / centre))
    quantiles = np.quantile(sigma, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(quantiles, np.linspace(0.5, 2.0, 5), atol=0.05)


def test_sobel_equals_scipy():
    images = make_images()
    ours = apply(image.sobel, images)
    for i, c in np.ndindex(4, 3):
        plane = images[i, :, :, c].astype(np.float64)
        down, across = (scipy.ndimage.sobel(plane, axis, mode="nearest") for axis in (0, 1))
        expected = np.hypot(down, across) / (2 * math.sqrt(5))
        np.testing.assert_allclose(ours[i, :, :, c], expected, atol=1e-6)


def test_sobel_reaches_one_and_no_more():
    every = np.array([[int(bit) for bit in f"{code:09b}"] for code in range(512)], np.float32)
    images = every.reshape(512, 3, 3, 1)  # all images of black and white
    edges = apply(image.sobel, images)[:, 1, 1, 0]
    assert abs(float(edges.max()) - 1) < 1e-6


def test_noise():
    n = 1000
    images = np.full((n, 16, 16, 1), 0.5, np.float32)
    noisy = apply(image.gaussian_noise, images, std=0.05, p=0.7) - 0.5
    changed = (noisy != 0).any((1, 2, 3))
    assert abs(changed.mean() - 0.7) < 0.05
    noise = noisy[changed].ravel() / 0.05
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert abs((np.abs(noise) < 1).mean() - 0.6827) < 0.01
    # No pixel knows of another, nor one example of the next.
    some = noisy[changed][:600].reshape(600, -1)
    assert np.abs(np.corrcoef(some[:, :20].T) - np.eye(20)).max() < 0.2
    assert np.abs(np.corrcoef(some[:20]) - np.eye(20)).max() < 0.3
    strong = apply(image.gaussian_noise, images, std=5.0, p=1.0)
    assert strong.min() == 0
    assert strong.max() == 1


def test_cutout():
    n, height, width = 4000, 20, 30
    images = np.ones((n, height, width, 2), np.float32)
    cut = apply(image.cutout, images, size=0.4, p=0.8, fill=0.25)
    drawn = uniforms(jax.random.split(jax.random.key(0), n), 3)
    whether, y, x = np.asarray(drawn, np.float64)
    np.testing.assert_array_equal(cut[whether >= 0.8], 1)
    for i in np.flatnonzero(whether < 0.8)[:50]:
        expected = np.ones((height, width, 2))
        for row in range(height):
            for column in range(width):
                off = max(abs(row + 0.5 - y[i] * height), abs(column + 0.5 - x[i] * width))
                if off < 4:  # 0.4 of the shorter side, halved
                    expected[row, column] = 0.25
        np.testing.assert_array_equal(cut[i], expected)
    # A square wholly inside has 8 x 8 pixels.
    inside = (whether < 0.8) & (np.abs(y - 0.5) < 0.25) & (np.abs(x - 0.5) < 0.3)
    np.testing.assert_array_equal((cut[inside, ..., 0] == 0.25).sum((1, 2)), 64)
