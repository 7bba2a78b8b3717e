"""Corruptions that move pixels, against SciPy and loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from ssl_jax.views import weather
from ssl_jax.views.corruptions import corrupt


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).random((18, 13, 3)).astype(np.float32)


def test_places_are_interpolated_and_mirrored(image):
    rng = np.random.default_rng(1)
    dy, dx = rng.normal(0, 6, (2, 18, 13)).astype(np.float32)
    rows, columns = np.mgrid[:18, :13]
    for channel in range(3):
        expected = ndimage.map_coordinates(
            image[..., channel], [rows + dy, columns + dx], order=1, mode="mirror"
        )
        got = weather.moved(image, dy, dx)[..., channel]
        np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("sigma", [0.1, 0.8, 3.0, 40.0])
def test_smoothing_is_a_mirrored_gaussian(sigma, image):
    truncate = np.ceil(3 * sigma) / sigma
    expected = ndimage.gaussian_filter1d(image, sigma, axis=0, mode="reflect", truncate=truncate)
    expected = ndimage.gaussian_filter1d(expected, sigma, axis=1, mode="reflect", truncate=truncate)
    np.testing.assert_allclose(weather.smooth(image, sigma), expected, atol=1e-4)
    np.testing.assert_allclose(weather.smoothing(7, sigma).sum(axis=1), 1)


def test_motion_is_a_mean_over_a_line(image):
    angle, radius, sigma = 0.6, 2.5, 1.5
    places = np.linspace(0, 5, 6)
    weights = np.exp(-(places**2) / (2 * sigma**2))
    rows, columns = np.mgrid[:18, :13].astype(float)
    expected = 0
    for place, weight in zip(places, weights / weights.sum(), strict=True):
        at = [rows + place * np.sin(angle), columns + place * np.cos(angle)]
        expected += weight * np.stack(
            [ndimage.map_coordinates(image[..., c], at, order=1, mode="mirror") for c in range(3)],
            axis=-1,
        )
    got = weather.along(jnp.asarray(image), jnp.float32(angle), radius, sigma)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_an_affine_field_shifts_its_points():
    shifts = np.random.default_rng(2).normal(size=(3, 2)).astype(np.float32)
    dy, dx = weather.affine_field(jnp.asarray(shifts), (20, 30))
    for (y, x), (by_y, by_x) in zip([(16, 21), (16, 9), (4, 9)], shifts, strict=True):
        assert dy[y, x] == pytest.approx(by_y, abs=1e-4)
        assert dx[y, x] == pytest.approx(by_x, abs=1e-4)
    assert dy[10, 15] == pytest.approx((shifts[0, 0] + shifts[2, 0]) / 2, abs=1e-4)


@pytest.mark.parametrize("severity, displacement", [(3, 0.78), (5, 1.88)])
def test_elastic_moves_as_far_whatever_the_size(severity, displacement):
    """In pixels of 224: the deviation of smoothed uniform noise, 0.577 / (2 sqrt(pi) sigma)."""
    amplitude, sigma = {3: (0.05, 0.01), 5: (0.12, 0.01)}[severity]
    expected = 244 * amplitude * 0.577 / (2 * np.sqrt(np.pi) * 244 * sigma)
    assert expected == pytest.approx(displacement, rel=0.05)
    for side in (224, 112):
        scale = side / 224
        noise = jax.random.uniform(jax.random.key(0), (side, side, 2), minval=-1.0, maxval=1.0)
        field = 244 * amplitude * scale**2 * weather.smooth(noise, 244 * sigma * scale)
        assert field.std() / scale == pytest.approx(expected, rel=0.15)


def test_glass_takes_values_from_near_by():
    y, x = np.mgrid[:224, :224].astype(np.float32)
    ramp = np.stack([y, x, 0 * x], axis=-1)[None] / 224
    out = np.asarray(corrupt("glass_blur", jax.random.split(jax.random.key(0), 1), ramp, 5))
    moved = np.abs(out - ramp)[0, 20:-20, 20:-20] * 224
    assert 0.5 < moved[..., :2].max() <= 8 and moved[..., 2].max() == 0  # twice four pixels
    assert abs((out - ramp)[0, 20:-20, 20:-20, :2].mean()) * 224 < 0.05


def test_snow_and_frost_are_laid_over():
    key = jax.random.key(3)
    dark, grey = (np.full((40, 40, 3), value, np.float32) for value in (0.0, 0.2))
    for severity, kept in ((1, 1.0), (5, 0.6)):
        difference = weather.frost(key, grey, severity) - weather.frost(key, dark, severity)
        np.testing.assert_allclose(difference, kept * 0.2, atol=1e-5)
    layer = np.asarray(weather.ridges(key, (64, 64)))
    assert 0 <= layer.min() < 0.3 and 0.6 < layer.max() <= 1 and layer.std() > 0.05
    out = np.asarray(weather.snow(key, grey, 5))
    # The light part of 0.45 is max(x, 1.5 grey + 0.5); flakes only add.
    least = 0.55 * 0.2 + 0.45 * 0.8
    assert out.min() >= least - 1e-5 and (out > least + 0.1).mean() > 0.02
    flakes = out - least
    np.testing.assert_allclose(flakes, flakes[::-1, ::-1], atol=1e-5)
