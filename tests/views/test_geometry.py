"""Crops against Pillow and NumPy; the distribution of what is drawn against a plain loop."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ssl_jax.core.errors import UserError
from ssl_jax.views import geometry, image, resample

BOXES = np.array(  # top, left, height, width on a canvas of 40x56
    [
        [0, 0, 40, 56],  # everything: smaller in both directions
        [10, 20, 6, 9],  # enlarged
        [3.25, 7.5, 30.1, 12.75],  # off the pixel grid
        [28, 44, 12, 12],  # the corner
        [0.5, 0.25, 39.4, 20],
    ],
    np.float32,
)
PIL_METHODS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def make_images(n=5, height=40, width=56, channels=3, seed=0):
    shape = (n, height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def crop(images, boxes, **options):
    lines = jnp.asarray(images).swapaxes(2, 3)
    return np.asarray(
        jax.jit(lambda x, b: resample.crop_and_resize(x, b, **options).swapaxes(2, 3))(lines, boxes)
    )


def pillow_crop(pixels, box, size, method):
    """One float channel at a time: Pillow rounds integer images between its two passes."""
    top, left, height, width = (float(v) for v in box)
    return np.stack(
        [
            np.asarray(
                Image.fromarray(pixels[..., c].astype(np.float32)).resize(
                    size[::-1], PIL_METHODS[method], (left, top, left + width, top + height)
                )
            )
            for c in range(pixels.shape[-1])
        ],
        -1,
    )


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_antialiased_crops_equal_pillow(method):
    images = make_images()
    ours = crop(images, BOXES, size=(24, 20), method=method)
    assert ours.shape == (5, 24, 20, 3)
    for pixels, box, result in zip(images, BOXES, ours, strict=True):
        expected = pillow_crop(pixels, box, (24, 20), method) / 255
        np.testing.assert_allclose(result, np.clip(expected, 0, 1), atol=2e-5)


def test_crops_equal_pillow_on_bytes_within_its_rounding():
    images = make_images() // 2 + 64  # Pillow also clips between its two passes
    ours = crop(images, BOXES, size=24)
    for pixels, (top, left, height, width), result in zip(images, BOXES, ours, strict=True):
        box = (left, top, left + width, top + height)
        expected = Image.fromarray(pixels).resize((24, 24), Image.Resampling.BICUBIC, box)
        np.testing.assert_allclose(result * 255, np.asarray(expected, np.float64), atol=1.5)


def test_pillow_rounds_and_clips_bytes_between_its_two_passes():
    """That is all by which it differs: white noise overshoots after the first pass already."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 56, 3), dtype=np.uint8)
    top, left, height, width = box = (3.0, 5.0, 40.0, 45.0)
    expected = Image.fromarray(noise).resize(
        (24, 24), Image.Resampling.BICUBIC, (left, top, left + width, top + height)
    )
    expected = np.asarray(expected, np.float64)
    columns, rows = (
        np.asarray(
            jax.jit(resample.resize_matrix, static_argnums=(2, 3))(start, extent, size, 24),
            np.float64,
        )
        for start, extent, size in ((left, width, 56), (top, height, 48))
    )
    between = np.einsum("tw,hwc->htc", columns, noise)
    emulated = np.einsum("sh,htc->stc", rows, np.clip(np.rint(between), 0, 255))
    assert np.abs(np.clip(np.rint(emulated), 0, 255) - expected).max() <= 1
    ours = 255 * crop(noise[None], np.array([box]), size=24)[0]
    exact = np.clip(np.einsum("sh,htc->stc", rows, between), 0, 255)
    np.testing.assert_allclose(ours, exact, atol=5e-3)
    assert 1.5 < np.abs(ours - expected).max() < 16 and np.abs(ours - expected).mean() < 1


def interpolate(pixels, box, size, kernel, reach):
    """Plain interpolation in float64: each output pixel from its `2 * reach` neighbours a side."""
    top, left, height, width = (float(v) for v in box)
    out = np.zeros((size, size, pixels.shape[-1]))
    for i in range(size):
        for j in range(size):
            y, x = top + (i + 0.5) * height / size, left + (j + 0.5) * width / size
            total = 0.0
            for row in range(math.floor(y) - reach, math.floor(y) + reach + 1):
                for column in range(math.floor(x) - reach, math.floor(x) + reach + 1):
                    if 0 <= row < pixels.shape[0] and 0 <= column < pixels.shape[1]:
                        weight = kernel(row + 0.5 - y) * kernel(column + 0.5 - x)
                        out[i, j] += weight * pixels[row, column]
                        total += weight
            out[i, j] /= total
    return out


def keys_cubic(x, a=-0.5):
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


@pytest.mark.parametrize(
    ("method", "kernel"), [("bicubic", keys_cubic), ("bilinear", lambda x: max(0.0, 1 - abs(x)))]
)
def test_crops_without_antialiasing_interpolate(method, kernel):
    images = make_images(channels=1)
    ours = crop(images, BOXES, size=12, method=method, antialias=False)
    for pixels, box, result in zip(images, BOXES, ours, strict=True):
        expected = interpolate(pixels / 255, box, 12, kernel, reach=3)
        np.testing.assert_allclose(result, np.clip(expected, 0, 1), atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("canvas", [(150, 520), (64, 200)])
def test_blocks_equal_the_dense_products(method, antialias, canvas):
    images = make_images(n=5, height=canvas[0], width=canvas[1])
    lines = images.swapaxes(2, 3).astype(np.float32) / 255
    boxes = BOXES * np.array([*canvas, *canvas]) / np.array([40, 56, 40, 56])
    boxes = np.asarray(geometry.mirror_after(jnp.asarray(boxes), np.arange(5) % 2 == 0))
    options = dict(size=(115, 170), method=method, antialias=antialias, dtype=jnp.float32)
    dense = jax.jit(functools.partial(resample.resize_dense, **options))(lines, boxes)
    blocks = jax.jit(functools.partial(resample.resize_in_blocks, **options))(lines, boxes)
    np.testing.assert_allclose(blocks, dense, atol=2e-4)  # positions up to 520 in float32
    assert [len(resample.block_edges(size, resample.MIN_BLOCK)) for size in (115, 170)] == [2, 3]


def test_crop_of_whole_pixels_is_exact():
    images = make_images()
    box = np.array([4, 10, 32, 32], np.float32)
    expected = images[:, 4:36, 10:42].astype(np.float32) / 255
    np.testing.assert_allclose(crop(images, box, size=32), expected, atol=1e-7)
    # Bytes are exact in bfloat16, so the one rounding is that of the result.
    rounded = crop(images, box, size=32, dtype=jnp.bfloat16)
    np.testing.assert_array_equal(rounded, np.asarray(jnp.asarray(expected, jnp.bfloat16)))


def test_bfloat16_crops_are_close():
    images = make_images()
    exact = crop(images, BOXES, size=24)
    rounded = crop(images, BOXES, size=24, dtype=jnp.bfloat16)
    assert rounded.dtype == jnp.bfloat16
    error = np.abs(rounded.astype(np.float32) - exact)
    assert error.max() < 2.5 / 255
    assert error.mean() < 0.4 / 255


def test_negative_width_mirrors_the_crop():
    images = make_images()
    top, left, height, width = BOXES.T
    mirrored = np.stack([top, left + width, height, -width], 1)
    expected = crop(images, BOXES, size=24)[:, :, ::-1]
    np.testing.assert_allclose(crop(images, mirrored, size=24), expected, atol=1e-5)


def test_mirroring_before_and_after():
    images = make_images()
    flipped = np.array([True, False, True, True, False])

    def flip(x):
        return np.where(flipped[:, None, None, None], x[:, :, ::-1], x)

    after = geometry.mirror_after(jnp.asarray(BOXES), flipped)
    before = geometry.mirror_before(jnp.asarray(BOXES), flipped, images.shape[2])
    np.testing.assert_allclose(
        crop(images, after, size=24), flip(crop(images, BOXES, size=24)), atol=1e-5
    )
    np.testing.assert_allclose(
        crop(images, before, size=24), crop(flip(images), BOXES, size=24), atol=1e-5
    )


# ------------------------------------------------------------------------------- what is drawn

N = 20_000


def loop_of_ten(rng, canvas, scale, ratio, log_ratio):
    """RandomResizedCrop as torchvision writes it, without rounding to pixels."""
    height, width = canvas
    for _ in range(10):
        area = rng.uniform(*scale) * height * width
        if log_ratio:
            aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        else:
            aspect = rng.uniform(*ratio)
        h, w = math.sqrt(area / aspect), math.sqrt(area * aspect)
        if h <= height and w <= width:
            return rng.uniform(0, height - h), rng.uniform(0, width - w), h, w
    aspect = min(max(width / height, ratio[0]), ratio[1])
    h, w = (height, height * aspect) if width / height > aspect else (width / aspect, width)
    return (height - h) / 2, (width - w) / 2, h, w


@pytest.mark.parametrize(
    ("canvas", "options"),
    [
        ((64, 64), dict(scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), log_ratio=True)),
        ((64, 64), dict(scale=(0.2, 1.0), ratio=(1 / 2, 2.0), log_ratio=False)),
        ((40, 100), dict(scale=(0.5, 1.0), ratio=(3 / 4, 4 / 3), log_ratio=True)),
    ],
)
def test_crops_are_distributed_as_in_the_loop(canvas, options):
    keys = jax.random.split(jax.random.key(0), N)
    ours = np.asarray(jax.jit(lambda k: geometry.sample_crops(k, canvas, **options))(keys))
    rng = np.random.default_rng(0)
    expected = np.array([loop_of_ten(rng, canvas, **options) for _ in range(N)])

    top, left, height, width = ours.T
    assert min(top.min(), left.min()) >= 0
    assert (top + height).max() <= canvas[0] + 1e-4
    assert (left + width).max() <= canvas[1] + 1e-4
    quantiles = np.linspace(0.05, 0.95, 10)
    side = max(canvas)
    for name, values, wanted, tolerance in [
        ("area", height * width, expected[:, 2] * expected[:, 3], 0.02 * canvas[0] * canvas[1]),
        ("aspect", width / height, expected[:, 3] / expected[:, 2], 0.03),
        ("top", top, expected[:, 0], 0.02 * side),
        ("left", left, expected[:, 1], 0.02 * side),
    ]:
        difference = np.quantile(values, quantiles) - np.quantile(wanted, quantiles)
        assert np.abs(difference).max() < tolerance, name


@pytest.mark.parametrize(
    ("canvas", "expected"), [((40, 100), (0, 23.333, 40, 53.333)), ((64, 64), (0, 0, 64, 64))]
)
def test_crop_that_never_fits_falls_back_to_the_largest_central_box(canvas, expected):
    keys = jax.random.split(jax.random.key(0), 50)
    ours = jax.jit(lambda k: geometry.sample_crops(k, canvas, scale=(1.0, 1.0)))(keys)
    aspects = np.asarray(ours[:, 3] / ours[:, 2])
    if canvas[0] != canvas[1]:
        np.testing.assert_allclose(ours, np.tile(expected, (50, 1)), atol=1e-3)
        np.testing.assert_allclose(aspects, 4 / 3, rtol=1e-5)
    else:  # all but an aspect of 1 exceed the canvas
        np.testing.assert_allclose(ours, np.tile(expected, (50, 1)), atol=1e-3)


def test_random_resized_crop_draws_its_boxes_from_the_keys():
    images = make_images().astype(np.float32) / 255
    keys = jax.random.split(jax.random.key(3), len(images))
    made = jax.jit(lambda k, x: image.random_resized_crop(k, x, size=16, scale=(0.3, 1.0)))
    boxes = jax.jit(lambda k: geometry.sample_crops(k, images.shape[1:3], scale=(0.3, 1.0)))(keys)
    np.testing.assert_allclose(made(keys, images), crop(images, boxes, size=16), atol=1e-6)
    # Example i depends on its own key alone.
    shuffled = made(keys[::-1], images[::-1])[::-1]
    np.testing.assert_allclose(shuffled, made(keys, images), atol=1e-6)


# -------------------------------------------------------------------- fixed crops, flips, turns


def test_center_crop_and_resize_equal_pillow():
    images = make_images()
    floats = images.astype(np.float32) / 255
    keys = jax.random.split(jax.random.key(0), len(images))
    central = jax.jit(lambda k, x: image.center_crop(k, x, size=20, fraction=0.8))(keys, floats)
    resize = functools.partial(image.resize, size=(10, 30), method="bilinear")
    whole = jax.jit(resize)(keys, floats)
    for i, pixels in enumerate(images):
        expected = pillow_crop(pixels, (4, 12, 32, 32), (20, 20), "bicubic") / 255
        np.testing.assert_allclose(central[i], np.clip(expected, 0, 1), atol=2e-5)
        expected = pillow_crop(pixels, (0, 0, 40, 56), (10, 30), "bilinear") / 255
        np.testing.assert_allclose(whole[i], expected, atol=2e-5)


def test_eval_view():
    images = make_images(height=32, width=48)

    def view(**options):
        return np.asarray(jax.jit(functools.partial(image.eval_view, **options))(images))

    exact = view(size=28)  # 28/32 = 0.875: no interpolation
    np.testing.assert_allclose(exact, images[:, 2:30, 10:38] / np.float32(255), atol=1e-6)
    assert view(size=28, dtype=jnp.bfloat16).dtype == jnp.bfloat16
    expected = pillow_crop(images[0], (0, 0, 32, 48), (16, 16), "bicubic") / 255
    whole = view(size=16, crop_fraction=None)
    np.testing.assert_allclose(whole[0], np.clip(expected, 0, 1), atol=2e-5)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    normalised = view(size=28, mean=mean, std=std)
    np.testing.assert_allclose(normalised, (exact - np.array(mean)) / np.array(std), atol=1e-5)


def test_flip():
    n = 4000
    images = np.arange(n * 6, dtype=np.float32).reshape(n, 1, 6, 1)
    keys = jax.random.split(jax.random.key(0), n)
    flipped, never, always = jax.jit(lambda k, x: [image.flip(k, x, p=p) for p in (0.3, 0.0, 1.0)])(
        keys, images
    )
    flipped = np.asarray(flipped)
    is_flipped = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    assert (is_flipped | (flipped == images).all((1, 2, 3))).all()
    assert abs(is_flipped.mean() - 0.3) < 0.03
    np.testing.assert_array_equal(never, images)
    np.testing.assert_array_equal(always, images[:, :, ::-1])


def test_rotate90_equals_numpy():
    images = make_images(n=6, height=5, width=5)
    turns = np.array([0, 1, 2, 3, 4, -1])
    each, same = jax.jit(lambda x, k: (image.rotate90(x, k), image.rotate90(x, 3)))(images, turns)
    for pixels, k, rotated in zip(images, turns, each, strict=True):
        np.testing.assert_array_equal(rotated, np.rot90(pixels, k))
    np.testing.assert_array_equal(same, np.rot90(images, 3, axes=(1, 2)))
    with pytest.raises(UserError, match="square"):
        image.rotate90(images[:, :4], 1)


def test_random_rotate90_draws_every_turn():
    n = 4000
    images = np.broadcast_to(np.arange(4.0, dtype=np.float32).reshape(1, 2, 2, 1), (n, 2, 2, 1))
    keys = jax.random.split(jax.random.key(0), n)
    corners, fewer = (
        np.asarray(turned)[:, 0, 0, 0]
        for turned in jax.jit(
            lambda k, x: (image.random_rotate90(k, x), image.random_rotate90(k, x, p=0.4))
        )(keys, images)
    )
    # The upper left corner of 0 1 / 2 3 after 0, 1, 2, 3 quarter turns.
    shares = [(corners == corner).mean() for corner in (0, 1, 3, 2)]
    np.testing.assert_allclose(shares, 0.25, atol=0.03)
    assert abs((fewer == 0).mean() - (0.6 + 0.1)) < 0.03


def test_ops_refuse_bytes():
    with pytest.raises(TypeError, match=r"flip takes float images.*uint8"):
        image.flip(jax.random.split(jax.random.key(0), 5), make_images())
