"""Corruptions against loops over pixels, JPEG against Pillow, and how strong they are."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ssl_jax.views import corruptions
from ssl_jax.views.corruptions import CORRUPTIONS, corrupt


def _images(n=3, h=28, w=21, c=3, seed=0):
    """Smooth images with an edge."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w] / max(h, w)
    a, b, shift = rng.random((3, n * c, 1, 1))
    waves = np.sin(6 * a * x + 5 * b * y + shift)
    images = 0.5 + 0.3 * np.reshape(waves, (n, c, h, w)).transpose(0, 2, 3, 1)
    images[:, h // 3 : h // 2, w // 4 : w // 2] += 0.2
    return images.astype(np.float32)


RANDOM = (
    "gaussian_noise", "shot_noise", "impulse_noise", "fog", "glass_blur", "motion_blur", "snow",
    "frost", "elastic_transform",
)  # fmt: skip
KEYS = jax.random.split(jax.random.key(0), 3)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_range_severity_and_keys(name):
    images = _images()
    changes = []
    for severity in (1, 3, 5):
        out = np.asarray(corrupt(name, KEYS, images, severity))
        assert out.shape == images.shape and out.dtype == np.float32
        assert np.isfinite(out).all() and out.min() >= 0 and out.max() <= 1
        changes.append(np.abs(out - images).mean())
    assert min(changes) > 0
    # Severities 1 and 2 of `elastic_transform` bend the whole image. Frost brightens less and hides
    # more from severity 3 on; its weights are tested in test_weather.py.
    if name != "frost":
        assert changes[1] < changes[2]
        assert changes[0] < changes[1] or name == "elastic_transform"
    alone = corrupt(name, KEYS[1:2], images[1:2], 5)
    np.testing.assert_allclose(alone[0], out[1], atol=1e-5)
    other = np.asarray(corrupt(name, jax.random.split(jax.random.key(1), 3), images, 5))
    random = name in RANDOM
    assert (np.abs(other - out).max() > 1e-3) == random
    for value in (0.0, 1.0):
        flat = np.asarray(corrupt(name, KEYS, np.full_like(images, value), 5))
        assert np.isfinite(flat).all()
    grey = np.asarray(corrupt(name, KEYS, images[..., :1], 5))
    assert grey.shape == (3, 28, 21, 1)


def test_noise_has_its_moments():
    flat = np.full((1, 200, 200, 3), 0.4, np.float32)
    key = KEYS[:1]
    noisy = np.asarray(corrupt("gaussian_noise", key, flat, 1))
    assert noisy.mean() == pytest.approx(0.4, abs=2e-3)
    assert noisy.std() == pytest.approx(0.08, rel=0.02)
    shot = np.asarray(corrupt("shot_noise", key, flat, 2))
    assert shot.mean() == pytest.approx(0.4, abs=3e-3)
    assert shot.std() == pytest.approx(np.sqrt(0.4 / 25), rel=0.02)
    np.testing.assert_allclose(shot * 25, np.round(shot * 25), atol=1e-4)
    impulse = np.asarray(corrupt("impulse_noise", key, flat, 5))
    for value in (0, 1):
        assert (impulse == value).mean() == pytest.approx(0.135, abs=5e-3)


def test_contrast_and_brightness():
    images = _images()
    out = np.asarray(corrupt("contrast", KEYS, images, 4))
    mean = images.mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(out, mean + 0.1 * (images - mean), atol=1e-6)
    out = np.asarray(corrupt("brightness", KEYS, images, 2))
    from colorsys import hsv_to_rgb, rgb_to_hsv

    for place in ((0, 0), (10, 6), (27, 20)):
        hue, saturation, value = rgb_to_hsv(*images[0][place])
        expected = hsv_to_rgb(hue, saturation, min(value + 0.2, 1))
        np.testing.assert_allclose(out[0][place], expected, atol=1e-5)


def test_defocus():
    images = _images()
    kernel = corruptions.disc(10 * 28 / 224)
    assert kernel.sum() == pytest.approx(1) and len(kernel) == 7
    np.testing.assert_allclose(kernel, kernel.T)
    # Its variance is that of the disc, r^2 / 4, and what linear interpolation adds.
    variance = (kernel.sum(axis=0) * np.arange(-3, 4) ** 2).sum()
    assert 1.25**2 / 4 < variance < 1.25**2 / 4 + 0.25
    out = np.asarray(corrupt("defocus_blur", KEYS, images, 5))
    for y, x in ((0, 0), (9, 6), (27, 20)):
        total = 0
        for dy in range(-3, 4):
            for dx in range(-3, 4):
                at = np.clip(y + dy, 0, 27), np.clip(x + dx, 0, 20)
                total = total + kernel[dy + 3, dx + 3] * images[0][at]
        np.testing.assert_allclose(out[0, y, x], total, atol=1e-5)


def test_pixelate():
    images = _images(h=20, w=20)
    out = np.asarray(corrupt("pixelate", KEYS, images, 5))  # 5 x 5 boxes of 4 x 4 pixels
    boxes = images.reshape(3, 5, 4, 5, 4, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(out, boxes.repeat(4, axis=1).repeat(4, axis=2), atol=1e-5)
    matrix = corruptions.box_matrix(7, 0.5)  # 3 cells of 7/3 pixels
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    np.testing.assert_allclose(matrix[0, :3] * 7, [3, 3, 1])


def test_zoom():
    for size, factor in ((5, 1.0), (9, 1.3), (8, 1.1)):
        line = np.random.default_rng(1).random(size)
        middle = (size - 1) / 2
        expected = [np.interp(middle + (i - middle) / factor, np.arange(size), line)
                    for i in range(size)]  # fmt: skip
        np.testing.assert_allclose(corruptions.zoom_matrix(size, factor) @ line, expected)


@pytest.mark.parametrize("severity, quality", [(1, 25), (3, 15), (5, 7)])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(severity, quality, channels):
    image = np.round(255 * _images(1, 40, 35, channels)[0]).astype(np.uint8)
    file = io.BytesIO()
    picture = Image.fromarray(image if channels == 3 else image[..., 0])
    picture.save(file, "jpeg", quality=quality, subsampling=0)
    expected = np.asarray(Image.open(file)).reshape(image.shape).astype(int)
    out = corrupt("jpeg", KEYS[:1], jnp.asarray(image[None]) / 255, severity)
    out = np.round(255 * np.asarray(out[0])).astype(int)
    # The decoders round in different places: a coefficient at one half can go either way.
    assert np.abs(out - expected).mean() < 0.5 and np.quantile(np.abs(out - expected), 0.95) <= 2
    assert np.abs(expected - image).mean() > 1
