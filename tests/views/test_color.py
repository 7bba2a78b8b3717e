"""Colour against Pillow, colorsys and NumPy in float64."""

import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from ssl_jax.core.errors import UserError
from ssl_jax.views import color, image

ORDERS = list(itertools.permutations(range(4)))
NEUTRAL = (1.0, 1.0, 1.0, 0.0)
jitter = jax.jit(color.apply_jitter, static_argnames="additive")


def make_images(n=24, height=9, width=10, channels=3, seed=0):
    shape = (n, height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def apply(images, amounts, order=(0, 1, 2, 3), **options):
    n = len(images)
    amounts = np.broadcast_to(np.asarray(amounts, np.float32), (n, 4))
    order = np.broadcast_to(np.asarray(order), (n, 4))
    lines = (np.asarray(images, np.float32) / 255).swapaxes(2, 3)
    return np.asarray(jitter(lines, amounts, order, **options)).swapaxes(2, 3)


@pytest.mark.parametrize("factor", [0.2, 1.0, 1.8])
@pytest.mark.parametrize(
    ("position", "enhance"),
    [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)],
)
def test_blends_equal_pillow_within_its_rounding(position, enhance, factor):
    images = make_images(n=3)
    amounts = np.array(NEUTRAL)
    amounts[position] = factor
    ours = apply(images, amounts) * 255
    for pixels, result in zip(images, ours, strict=True):
        expected = enhance(Image.fromarray(pixels)).enhance(factor)
        np.testing.assert_allclose(result, np.asarray(expected, np.float64), atol=1.5)


def shift_hue(pixels, turns):
    out = np.empty_like(pixels)
    for index in np.ndindex(pixels.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*pixels[index])
        out[index] = colorsys.hsv_to_rgb((h + turns) % 1.0, s, v)
    return out


@pytest.mark.parametrize("turns", [-0.5, -0.13, 0.0, 0.2, 0.5])
def test_hue_equals_colorsys(turns):
    images = make_images(n=2)
    images[0, 0] = [90, 90, 90]  # grey has no hue
    images[0, 1, :6] = np.eye(3, dtype=np.uint8)[[0, 1, 2, 0, 1, 2]] * 255  # pure colours
    images[0, 1, 3:6] = 255 - images[0, 1, 3:6]
    images[0, 2, :2] = [[0, 0, 0], [255, 255, 255]]
    ours = apply(images, (1, 1, 1, turns))
    for pixels, result in zip(images, ours, strict=True):
        np.testing.assert_allclose(result, shift_hue(pixels / 255, turns), atol=2e-6)


def jitter_oracle(pixels, amounts, order, additive):
    """One op after the other in float64."""
    for op in order:
        amount = float(amounts[op])
        grey = (pixels @ np.array([0.299, 0.587, 0.114]))[..., None]
        if op == 0:
            pixels = pixels + amount if additive else amount * pixels
        elif op == 1:
            pixels = amount * pixels + (1 - amount) * grey.mean()
        elif op == 2:
            pixels = amount * pixels + (1 - amount) * grey
        else:
            pixels = shift_hue(pixels, amount)
        pixels = np.clip(pixels, 0, 1)
    return pixels


@pytest.mark.parametrize("additive", [False, True])
def test_every_order_equals_the_ops_one_by_one(additive):
    images = make_images(n=24)
    rng = np.random.default_rng(1)
    amounts = rng.uniform([0.2, 0.2, 0.2, -0.2], [1.8, 1.8, 1.8, 0.2], (24, 4)).astype(np.float32)
    if additive:
        amounts[:, 0] = rng.uniform(-0.8, 0.8, 24)
    ours = apply(images, amounts, ORDERS, additive=additive)
    for i, order in enumerate(ORDERS):
        expected = jitter_oracle(images[i] / 255, amounts[i], order, additive)
        np.testing.assert_allclose(ours[i], expected, atol=1e-5, err_msg=str(order))


def test_one_channel_has_no_hue_and_no_saturation():
    images = make_images(n=2, channels=1)
    unchanged = apply(images, (1, 1, 0.3, 0.4))
    np.testing.assert_allclose(unchanged, images / np.float32(255), atol=1e-6)
    contrast = apply(images, (1, 0.5, 0.3, 0.4))
    mean = (images / 255).mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(contrast, 0.5 * images / 255 + 0.5 * mean, atol=1e-6)


DEFAULTS = dict(strength=1.0, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, p=0.8)


def draw(n=20_000, **options):
    keys = jax.random.split(jax.random.key(0), n)
    amounts, order = jax.jit(lambda k: color.sample_jitter(k, **{**DEFAULTS, **options}))(keys)
    return np.asarray(amounts), np.asarray(order)


def test_drawn_amounts_and_orders():
    amounts, order = draw(strength=0.5, contrast=0.4)
    untouched = (amounts == np.array(NEUTRAL, np.float32)).all(1)
    assert abs(untouched.mean() - 0.2) < 0.02
    ranges = [(0.6, 1.4), (0.8, 1.2), (0.6, 1.4), (-0.1, 0.1)]
    for values, (low, high) in zip(amounts[~untouched].T, ranges, strict=True):
        quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
        assert np.abs(quantiles - np.linspace(low, high, 5)).max() < 0.02 * (high - low)
    codes, counts = np.unique(order @ np.array([64, 16, 4, 1]), return_counts=True)
    assert len(codes) == 24
    np.testing.assert_allclose(counts / len(order), 1 / 24, atol=0.007)
    # Amounts and order are drawn independently: no correlation anywhere.
    together = np.concatenate([amounts[~untouched], order[~untouched][:, :3]], 1)
    correlation = np.corrcoef(together.T)[:4]
    correlation[np.arange(4), np.arange(4)] = 0
    assert np.abs(correlation).max() < 0.03


def test_drawn_amounts_at_the_edge():
    amounts, _ = draw(strength=2.0, p=1.0)  # 1 - 1.6 is no factor: clipped to 0
    assert 0 <= amounts[:, 0].min() < 0.01
    assert abs(amounts[:, 0].max() - 2.6) < 0.01
    amounts, _ = draw(additive=True, p=1.0)
    assert np.abs(np.quantile(amounts[:, 0], [0, 0.5, 1]) - [-0.8, 0, 0.8]).max() < 0.03
    with pytest.raises(UserError, match=r"strength 4.0 times hue 0.2 is 0.8 turns"):
        draw(strength=4.0)


def test_color_jitter_applies_what_is_drawn():
    images = make_images(n=16)
    keys = jax.random.split(jax.random.key(0), 16)
    made = jax.jit(lambda k, x: image.color_jitter(k, x, strength=0.7))(keys, images / 255)
    amounts, order = draw(n=16, strength=0.7)
    for i in range(16):
        expected = jitter_oracle(images[i] / 255, amounts[i], order[i], additive=False)
        np.testing.assert_allclose(made[i], expected, atol=1e-5)


def chosen(changed, unchanged, images):
    """Which examples were changed; each must be wholly one or the other."""
    images = np.asarray(images)
    is_changed = np.abs(images - changed).max((1, 2, 3)) < 1e-6
    is_unchanged = np.abs(images - unchanged).max((1, 2, 3)) < 1e-6
    assert (is_changed ^ is_unchanged).all()
    return is_changed


def test_grayscale_equals_pillow():
    n = 2000
    images = make_images(n=n, height=4, width=4)
    floats = images.astype(np.float32) / 255
    keys = jax.random.split(jax.random.key(0), n)
    grey = np.asarray(image.grayscale(keys, floats, p=1.0))
    for i in range(10):
        expected = np.asarray(Image.fromarray(images[i]).convert("L"), np.float64)
        np.testing.assert_allclose(grey[i] * 255, np.stack([expected] * 3, -1), atol=0.51)
    share = chosen(grey, floats, image.grayscale(keys, floats, p=0.2)).mean()
    assert abs(share - 0.2) < 0.03
    one = floats[..., :1]
    np.testing.assert_array_equal(image.grayscale(keys, one, p=1.0), one)


def test_solarize_equals_pillow():
    n = 2000
    images = make_images(n=n, height=4, width=4)
    floats = images.astype(np.float32) / 255
    keys = jax.random.split(jax.random.key(0), n)
    inverted = np.asarray(image.solarize(keys, floats, p=1.0, threshold=0.5))
    for i in range(10):
        expected = np.asarray(ImageOps.solarize(Image.fromarray(images[i]), 128), np.float64)
        np.testing.assert_allclose(inverted[i] * 255, expected, atol=1e-4)
    share = chosen(inverted, floats, image.solarize(keys, floats, p=0.3)).mean()
    assert abs(share - 0.3) < 0.03


def test_normalize():
    images = make_images(n=2).astype(np.float32) / 255
    keys = jax.random.split(jax.random.key(0), 2)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    np.testing.assert_allclose(image.normalize(keys, images), (images - mean) / std, atol=1e-5)
    one = image.normalize(keys, images[..., :1], mean=(0.5,), std=(0.25,))
    np.testing.assert_allclose(one, (images[..., :1] - 0.5) / 0.25, atol=1e-6)
    with pytest.raises(UserError, match="give 1 or 1 numbers|1 channel"):
        image.normalize(keys, images[..., :1])


def test_colour_of_two_channels_is_refused():
    with pytest.raises(UserError, match="1 or 3 channels, got 2"):
        image.color_jitter(jax.random.split(jax.random.key(0), 3), jnp.zeros((3, 4, 4, 2)))
