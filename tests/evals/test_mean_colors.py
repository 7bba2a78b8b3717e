"""Colours of images against loops over their pixels."""

import collections
import colorsys

import numpy as np
import pytest

from ssl_jax.evals import mean_colors
from ssl_jax.views.lab import rgb_to_lab


@pytest.fixture(scope="module")
def images():
    """Noise, one colour, grey, black, and hues on both sides of red."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, 4, 5, 3))
    plain = np.broadcast_to(np.array([[250, 40, 9], [77, 77, 77], [0, 0, 0]]), (4, 5, 3, 3))
    reds = np.zeros((1, 4, 5, 3), int)
    reds[..., 0] = 200
    reds[:, :2, :, 1] = reds[:, 2:, :, 2] = 30
    return np.concatenate([noise, plain.transpose(2, 0, 1, 3), reds]).astype(np.uint8)


def test_means_of_pixels(images):
    pixels = images.reshape(len(images), -1, 3) / 255
    np.testing.assert_allclose(mean_colors.rgb(images), pixels.mean(axis=1), atol=1e-6)
    lab = rgb_to_lab(pixels, xp=np).mean(axis=1)
    np.testing.assert_allclose(mean_colors.lab(images), lab, atol=2e-4)
    hsv = np.asarray(mean_colors.hsv(images))
    for row, values in zip(hsv, pixels, strict=True):
        colors = np.array([colorsys.rgb_to_hsv(*color) for color in values])
        mean = (colors[:, 1] * np.exp(2j * np.pi * colors[:, 0])).mean()
        np.testing.assert_allclose(row[1:], colors[:, 1:].mean(axis=0), atol=1e-6)
        assert abs(mean) * abs(np.exp(2j * np.pi * row[0]) - mean / (abs(mean) or 1)) < 1e-5
    assert min(hsv[-1, 0], 1 - hsv[-1, 0]) < 1e-6  # red, not the turquoise between 0.02 and 0.98
    assert hsv[3].tolist() == pytest.approx([0, 0, 77 / 255]) and not hsv[4].any()


def test_the_most_frequent_color(images):
    for row, image in zip(mean_colors.dominant_color(images), images, strict=True):
        bins = collections.Counter(tuple(color) for color in (image.reshape(-1, 3) // 32).tolist())
        most = max(bins.values())
        smallest = min(color for color, count in bins.items() if count == most)
        np.testing.assert_array_equal(row, (np.array(smallest) + 0.5) / 8)
