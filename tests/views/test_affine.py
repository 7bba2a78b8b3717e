"""Affine maps against SciPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from ssl_jax.views import affine as affine_module
from ssl_jax.views import image
from ssl_jax.views.affine import affine, interpolate_dense, interpolate_gather, sample_affine

SETTINGS = dict(degrees=30.0, translate=0.2, scale=(0.7, 1.4), shear=20.0, p=1.0)


def make_lines(n=6, height=11, width=14, channels=2, seed=0):
    return np.random.default_rng(seed).random((n, height, channels, width)).astype(np.float32)


def scipy_affine(lines, matrix, shift, size, fill):
    """`lines` `[h c w]`: the output pixel at q takes the value at `inverse @ (q - shift)`."""
    in_size = np.array([lines.shape[0], lines.shape[2]], np.float64)
    inverse = np.linalg.inv(np.asarray(matrix, np.float64))
    pixel = in_size / np.array(size)  # an output pixel's height and width in input pixels
    centre_in, centre_out = (in_size - 1) / 2, (np.array(size) - 1) / 2
    linear = inverse * pixel  # columns scaled: q = (index - centre_out) * pixel
    offset = centre_in - linear @ centre_out - inverse @ np.asarray(shift, np.float64)
    return np.stack(
        [
            scipy.ndimage.affine_transform(
                lines[:, c].astype(np.float64),
                linear,
                offset,
                output_shape=size,
                order=1,
                mode="grid-constant",
                cval=fill,
            )
            for c in range(lines.shape[1])
        ],
        axis=1,
    )


@pytest.mark.parametrize("form", [interpolate_dense, interpolate_gather])
@pytest.mark.parametrize(("size", "fill"), [((11, 14), 0.0), ((22, 20), 0.7)])
def test_affine_equals_scipy(form, size, fill, monkeypatch):
    # Either form, as if this were the platform that prefers it.
    monkeypatch.setattr(affine_module, "interpolate_dense", form)
    monkeypatch.setattr(affine_module, "interpolate_gather", form)
    lines = make_lines()
    keys = jax.random.split(jax.random.key(0), len(lines))
    matrix, shift = sample_affine(keys, (11, 14), **SETTINGS)
    ours = jax.jit(lambda *a: affine(*a, size=size, fill=fill))(lines, matrix, shift)
    for i in range(len(lines)):
        expected = scipy_affine(lines[i], matrix[i], shift[i], size, fill)
        np.testing.assert_allclose(ours[i], expected, atol=2e-5)


def test_affine_turns_moves_and_enlarges():
    lines = make_lines(height=9, width=9)
    n = len(lines)

    @jax.jit
    def apply(matrix, shift):
        return affine(lines, jnp.tile(matrix, (n, 1, 1)), jnp.tile(shift, (n, 1)), size=9)

    quarter = np.array([[0.0, 1.0], [-1.0, 0.0]])  # (y, x) -> (x, -y)
    turned = np.asarray(apply(quarter, np.zeros(2))).swapaxes(2, 3)
    expected = np.rot90(lines.swapaxes(2, 3), -1, axes=(1, 2))
    np.testing.assert_allclose(turned, expected, atol=1e-5)
    moved = np.asarray(apply(np.eye(2), np.array([2.0, -1.0])))
    np.testing.assert_allclose(moved[:, 2:, :, :-1], lines[:, :-2, :, 1:], atol=1e-5)
    assert (moved[:, :2] == 0).all()
    assert (moved[..., -1] == 0).all()
    enlarged = np.asarray(apply(2 * np.eye(2), np.zeros(2)))
    np.testing.assert_allclose(enlarged[:, ::2, :, ::2], lines[:, 2:7, :, 2:7], atol=1e-5)


def test_sampled_affine_maps():
    n, canvas = 20_000, (20, 40)
    keys = jax.random.split(jax.random.key(0), n)
    draw = jax.jit(lambda k: sample_affine(k, canvas, **{**SETTINGS, "p": 0.75}))
    matrix, shift = (np.asarray(a, np.float64) for a in draw(keys))
    same = (np.abs(matrix - np.eye(2)).max((1, 2)) < 1e-9) & (np.abs(shift).max(1) < 1e-9)
    assert abs(same.mean() - 0.25) < 0.02
    matrix, shift = matrix[~same], shift[~same]
    # matrix = zoom * rotation @ [[1, 0], [skew, 1]]
    zoom = np.sqrt(np.linalg.det(matrix))
    angle = np.degrees(np.arctan2(matrix[:, 0, 1], matrix[:, 1, 1]))
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    skew = (matrix[:, 1, 0] / zoom + sin) / cos
    shear = np.degrees(np.arctan(skew))
    np.testing.assert_allclose(matrix[:, 0, 0], zoom * (cos + sin * skew), atol=1e-5)
    for name, values, low, high in [
        ("zoom", zoom, 0.7, 1.4),
        ("angle", angle, -30, 30),
        ("shear", shear, -20, 20),
        ("down", shift[:, 0], -4, 4),
        ("right", shift[:, 1], -8, 8),
    ]:
        quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
        wanted = np.linspace(low, high, 5)
        assert np.abs(quantiles - wanted).max() < 0.02 * (high - low), name


def test_random_affine_resizes():
    images = make_lines(height=8, width=8, channels=1).swapaxes(2, 3)
    keys = jax.random.split(jax.random.key(0), len(images))
    assert jax.eval_shape(image.random_affine, keys, images).shape == images.shape
    enlarged = jax.jit(lambda k, x: image.random_affine(k, x, size=16, p=0.0))(keys, images)
    unit = np.tile(np.eye(2), (len(images), 1, 1))
    for i, lines in enumerate(images.swapaxes(2, 3)):
        expected = scipy_affine(lines, unit[i], np.zeros(2), (16, 16), 0.0)
        np.testing.assert_allclose(enlarged[i].swapaxes(1, 2), expected, atol=1e-5)
