"""RandAugment against Pillow, which timm's operations call, and the law of what it draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from ssl_jax.core.errors import UserError
from ssl_jax.views import image, intensity, rand_augment
from ssl_jax.views.rand_augment import OPERATIONS

FILL = (0.2, 0.5, 0.8)
apply_operations = jax.jit(
    rand_augment.apply_operations, static_argnames=("operations", "method", "fill")
)


def photographs(n, height=30, width=41, channels=3, seed=0):
    """Smooth, as the interpolation of noise would differ by Pillow's rounding of positions."""
    coarse = np.random.default_rng(seed).integers(20, 200, (n, 6, 7, 3), dtype=np.uint8)
    pixels = [
        np.asarray(Image.fromarray(x).resize((width, height), Image.Resampling.BICUBIC))
        for x in coarse
    ]
    pixels = np.stack(pixels)
    return pixels if channels == 3 else pixels[..., :1]


def pillow(name, pixels, magnitude, sign, method="bicubic"):
    """The operation as `Image` functions, from the table in timm's documentation of magnitudes."""
    share = magnitude / 10
    img = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    fill = tuple(round(255 * x) for x in FILL)[: pixels.shape[-1]]
    moved = dict(
        resample=Image.Resampling[method.upper()], fillcolor=fill if len(fill) > 1 else fill[0]
    )
    affine = {
        "shear_x": (1, 0.3 * share * sign, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, 0.3 * share * sign, 1, 0),
        "translate_x": (1, 0, 0.45 * share * sign * img.size[0], 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, 0.45 * share * sign * img.size[1]),
    }
    factor = max(0.1, 1 + sign * 0.9 * share)
    enhanced = {
        "color": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "brightness": ImageEnhance.Brightness,
        "sharpness": ImageEnhance.Sharpness,
    }
    if name in affine:
        out = img.transform(img.size, Image.Transform.AFFINE, affine[name], **moved)
    elif name == "rotate":
        out = img.rotate(30 * share * sign, **moved)
    elif name in enhanced:
        out = enhanced[name](img).enhance(factor)
    elif name == "posterize":
        step = 2 ** (4 + int(4 * share))  # 0 bits, which newer versions of Pillow refuse: black
        out = pixels // np.uint8(step) * np.uint8(step) if step < 256 else 0 * pixels
    elif name == "solarize":
        out = ImageOps.solarize(img, 256 - int(256 * share))
    elif name == "solarize_add":
        table = [min(255, i + int(110 * share)) if i < 128 else i for i in range(256)]
        out = img.point(table * len(img.getbands()))
    else:
        plain = dict(
            auto_contrast=ImageOps.autocontrast, equalize=ImageOps.equalize, invert=ImageOps.invert
        )
        out = plain[name](img)
    return np.asarray(out, np.float64).reshape(pixels.shape)


@pytest.mark.parametrize(("channels", "method"), [(3, "bicubic"), (1, "bilinear")])
def test_every_operation_is_pillows(channels, method):
    """All operations at four magnitudes in both directions, in one batch."""
    cases = [(op, m, s) for op in OPERATIONS for m in (0.0, 3.2, 9.0, 10.0) for s in (1, -1)]
    pixels = photographs(len(cases), channels=channels)
    chosen, magnitude, sign = (np.array(column) for column in zip(*cases, strict=True))
    chosen = np.array([OPERATIONS.index(name) for name in chosen])
    lines = (pixels / np.float32(255)).swapaxes(2, 3)
    ours = apply_operations(
        lines,
        chosen,
        magnitude.astype(np.float32),
        sign.astype(np.float32),
        method=method,
        fill=FILL[:channels],
    )
    ours = 255 * np.asarray(ours, np.float64).swapaxes(2, 3)
    for case, before, after in zip(cases, pixels, ours, strict=True):
        expected = pillow(case[0], before, *case[1:], method)
        difference = np.abs(after - expected)
        # Pillow rounds: greys and smoothed images (then times 0.9), and interpolated values down.
        assert difference.max() <= 2.01, (case, difference.max())
        assert difference.mean() <= 1.0, case


def test_accelerators_select_what_a_cpu_computes(monkeypatch):
    """The whole op with both forms of `switch`."""
    images = (photographs(32, 12, 9) / np.float32(255)).astype(np.float32)
    keys = jax.random.split(jax.random.key(2), 32)

    def run():
        return np.asarray(jax.jit(lambda x: image.rand_augment(keys, x, p=1.0))(images))

    one_by_one = run()
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *rows, default, **_: default(*rows))
    np.testing.assert_allclose(run(), one_by_one, atol=1e-5)
    assert (np.abs(one_by_one - images).max((1, 2, 3)) > 0.01).mean() > 0.8


def equalize_oracle(channel):
    """Level by level."""
    counts = [int((channel == level).sum()) for level in range(256)]
    occurring = [count for count in counts if count]
    step = (sum(occurring) - occurring[-1]) // 255
    if step == 0:
        return channel
    table, below = [], 0
    for count in counts:
        table.append(min(255, (step // 2 + below) // step))
        below += count
    return np.array(table)[channel]


def test_equalization_counts_the_levels():
    """Noise, few levels, one level, a small image that does not change; also as products."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 40, 50, 3))
    pixels[1] = pixels[1] // 64 * 30
    pixels[2] = 7
    pixels[3, ..., 1] = 200 + pixels[3, ..., 1] // 16
    lines = (pixels / np.float32(255)).swapaxes(2, 3)
    ours = np.round(255 * np.asarray(jax.jit(intensity.equalize)(lines))).swapaxes(2, 3)
    for before, after in zip(pixels, ours, strict=True):
        for c in range(3):
            np.testing.assert_array_equal(after[..., c], equalize_oracle(before[..., c]))
    level = pixels.reshape(4, 1, -1)
    counts = intensity.histogram_scatter(level)
    np.testing.assert_array_equal(counts, intensity.histogram_dense(level))
    np.testing.assert_array_equal(counts[0, 0], np.bincount(level[0, 0], minlength=256))
    table = rng.integers(0, 256, (4, 1, 256))
    expected = intensity.look_up_gather(table, level)
    np.testing.assert_array_equal(expected, intensity.look_up_dense(table, level))
    np.testing.assert_array_equal(expected, np.take_along_axis(table, level, axis=2))


def test_operations_and_magnitudes_are_drawn_as_configured():
    """With one operation, by whose factor a pixel tells what was drawn."""
    n = 4000
    keys = jax.random.split(jax.random.key(0), n)
    images = jnp.full((n, 1, 1, 1), 0.5)

    @functools.partial(jax.jit, static_argnames="num_ops")
    def factor(num_ops, **options):
        options = dict(num_ops=num_ops, operations=("brightness",), **options)
        return image.rand_augment(keys, images, **options)[:, 0, 0, 0] / 0.5

    once = np.asarray(
        factor(num_ops=1, magnitude=5.0, magnitude_std=1.0, p=0.5, max_magnitude=10.0)
    )
    change = (once - 1) / 0.9 * 10
    assert abs((change == 0).mean() - 0.5) < 0.03
    change = change[change != 0]
    assert abs((change > 0).mean() - 0.5) < 0.04
    assert abs(np.abs(change).mean() - 5) < 0.1 and abs(np.abs(change).std() - 1) < 0.06
    clipped = np.asarray(
        factor(num_ops=1, magnitude=9.0, magnitude_std=2.0, p=1.0, max_magnitude=9.0)
    )
    assert abs((np.abs(clipped - 1) > 0.8099).mean() - 0.5) < 0.03
    twice = np.asarray(
        factor(num_ops=2, magnitude=2.0, magnitude_std=0.0, p=1.0, max_magnitude=9.0)
    )
    kinds, counts = np.unique(np.round(twice, 3), return_counts=True)
    np.testing.assert_allclose(kinds, [0.82 * 0.82, 0.82 * 1.18, 1.18 * 1.18], atol=1e-3)
    np.testing.assert_allclose(counts / n, [0.25, 0.5, 0.25], atol=0.03)


def test_all_operations_are_equally_likely():
    """By the colour of a pixel that each of four operations gives another value."""
    n = 4000
    operations = ("invert", "solarize_add", "posterize", "brightness")
    images = jnp.full((n, 1, 1, 1), 0.4)
    keys = jax.random.split(jax.random.key(1), n)
    options = dict(num_ops=1, magnitude=2.5, magnitude_std=0.0, p=1.0, operations=operations)
    out = jax.jit(lambda x: image.rand_augment(keys, x, **options))(images)
    kinds, counts = np.unique(np.round(255 * np.asarray(out)), return_counts=True)
    np.testing.assert_array_equal(kinds, [79, 96, 125, 129, 153])  # brightness: two signs
    np.testing.assert_allclose(counts / n, [0.125, 0.25, 0.125, 0.25, 0.25], atol=0.03)


def test_a_rotation_by_a_right_angle_turns_the_image():
    """At magnitude 30, which only `max_magnitude` allows; the oracle is exact."""
    pixels = np.random.default_rng(1).random((1, 9, 9, 3)).astype(np.float32)
    turned = apply_operations(
        pixels.swapaxes(2, 3), np.array([0]), np.float32([30]), np.float32([1]),
        operations=("rotate",),
    )  # fmt: skip
    np.testing.assert_allclose(turned.swapaxes(2, 3)[0], np.rot90(pixels[0]), atol=2e-5)


def test_a_fill_of_another_number_of_channels_is_named():
    images = jax.ShapeDtypeStruct((1, 4, 4, 1), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 1)
    with pytest.raises(UserError, match=r"rand_augment: fill \(0.2, 0.5, 0.8\).* 1 channel;"):
        jax.eval_shape(functools.partial(image.rand_augment, fill=FILL), keys, images)
