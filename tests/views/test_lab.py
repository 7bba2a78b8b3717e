"""sRGB to Lab and back, and the bins of colours, against float64 oracles."""

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.views import color_bins
from ssl_jax.views.lab import lab_to_rgb, rgb_to_lab


def oracle_lab(rgb):
    """One colour, in float64, by the formulas of IEC 61966-2-1 and CIE 15."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in map(float, rgb)]
    rows = (
        (0.4124564, 0.3575761, 0.1804375),
        (0.2126729, 0.7151522, 0.0721750),
        (0.0193339, 0.1191920, 0.9503041),
    )
    xyz = [sum(a * b for a, b in zip(row, linear, strict=True)) for row in rows]
    relative = [a / b for a, b in zip(xyz, (0.95047, 1.0, 1.08883), strict=True)]
    x, y, z = (
        t ** (1 / 3) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29 for t in relative
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_lab_is_the_oracles_and_the_round_trip_is_the_identity():
    rng = np.random.default_rng(0)
    rgb = np.concatenate([rng.random((200, 3)), 0.05 * rng.random((50, 3)), np.eye(3)])
    rgb = rgb.astype(np.float32)
    lab = jax.jit(rgb_to_lab)(rgb)
    assert lab.dtype == np.float32
    np.testing.assert_allclose(lab, [oracle_lab(x) for x in rgb], atol=2e-3)
    np.testing.assert_allclose(rgb_to_lab(rgb.astype(np.float64), xp=np), lab, atol=2e-3)
    np.testing.assert_allclose(jax.jit(lab_to_rgb)(lab), rgb, atol=2e-5)


def test_known_colours():
    """White, black and the primaries, as published tables of sRGB state them."""
    rgb = np.array([[1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float64)
    expected = [
        [100, 0, 0],
        [0, 0, 0],
        [53.24, 80.09, 67.20],
        [87.73, -86.18, 83.18],
        [32.30, 79.19, -107.86],
    ]
    np.testing.assert_allclose(rgb_to_lab(rgb, xp=np), expected, atol=0.02)


def test_colours_outside_of_srgb_are_clipped():
    rgb = lab_to_rgb(np.array([[50.0, 120.0, -120.0], [120.0, 0.0, 0.0], [-5.0, 0, 0]], np.float32))
    assert rgb.min() >= 0 and rgb.max() <= 1
    np.testing.assert_allclose(rgb[1:], [[1, 1, 1], [0, 0, 0]], atol=1e-6)


def test_313_bins_are_in_gamut_whatever_the_sampling(monkeypatch):
    bins = color_bins.in_gamut_bins()
    assert bins.shape == (313, 2) == (color_bins.NUM_BINS, 2)
    assert not np.any(bins % 10) and len(np.unique(bins, axis=0)) == 313
    np.testing.assert_array_equal(bins, bins[np.lexsort(bins.T[::-1])])
    monkeypatch.setattr(color_bins, "_LEVELS", 33)
    for limit in (13.3, 13.7):
        monkeypatch.setattr(color_bins, "LIMIT", limit)
        np.testing.assert_array_equal(color_bins.in_gamut_bins.__wrapped__(), bins)
    # Every colour of a coarse grid is nearer to a bin than the distance between two bins.
    axis = np.linspace(0, 1, 9)
    rgb = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    ab = rgb_to_lab(rgb, xp=np)[:, None, 1:]
    assert np.sqrt(((ab - bins) ** 2).sum(-1)).min(axis=1).max() <= np.sqrt(50)


def test_soft_targets_are_gaussians_over_the_ten_nearest_bins():
    bins = color_bins.in_gamut_bins()
    ab = np.random.default_rng(0).uniform(-60, 60, (40, 2)).astype(np.float32)
    encode = jax.jit(lambda ab: color_bins.soft_encode(ab, bins, neighbours=10, sigma=5.0))
    target = np.asarray(encode(np.concatenate([ab, [[0, 0]], [[90, 90]]])))
    np.testing.assert_allclose(target.sum(axis=-1), 1, rtol=1e-6)
    assert np.all((target > 0).sum(axis=-1) <= 10)
    assert np.all(np.isfinite(target))
    for colour, weights in zip(ab.astype(np.float64), target[:40], strict=True):
        squared = ((bins - colour) ** 2).sum(axis=1)
        nearest = np.argsort(squared)[:10]
        expected = np.zeros(313)
        expected[nearest] = np.exp(-squared[nearest] / 50)
        np.testing.assert_allclose(weights, expected / expected.sum(), atol=1e-5)


def test_low_temperatures_decode_the_mode_and_one_the_mean():
    bins = color_bins.in_gamut_bins()
    logits = np.random.default_rng(1).normal(size=(5, 313)).astype(np.float32)
    decode = jax.jit(lambda t: color_bins.decode(logits, bins, temperature=t))
    np.testing.assert_allclose(decode(1e-4), bins[logits.argmax(axis=1)], atol=1e-3)
    p = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(decode(1.0), p / p.sum(1, keepdims=True) @ bins, atol=1e-3)
    annealed = np.exp(logits.astype(np.float64) / 0.38)
    expected = annealed / annealed.sum(1, keepdims=True) @ bins
    np.testing.assert_allclose(decode(jnp.float32(0.38)), expected, atol=1e-3)
