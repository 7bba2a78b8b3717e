"""Activation maps of convolutional nets against NumPy."""

import numpy as np

from ssl_jax.core.layer_outputs import LayerOutput
from ssl_jax.models.activation_maps import activation_maps


def test_maps_are_the_mean_squares_over_channels():
    rng = np.random.default_rng(0)
    fine, coarse = rng.normal(size=(2, 4, 8, 3)), rng.normal(size=(2, 2, 4, 5))
    layers = {
        "stage2": LayerOutput(coarse.reshape(2, 8, 5).astype(np.float32)),
        "stage1": LayerOutput(fine.reshape(2, 32, 3).astype(np.float32)),
    }
    maps = activation_maps(layers, (8, 16))
    assert list(maps) == ["stage1", "stage2"]
    for name, features, factor in (("stage1", fine, 2), ("stage2", coarse, 4)):
        power = (features**2).mean(axis=3)
        power /= power.max(axis=(1, 2), keepdims=True)
        expected = power.repeat(factor, axis=1).repeat(factor, axis=2)
        np.testing.assert_allclose(maps[name], expected, rtol=1e-5)


def test_dead_units_are_black_and_other_layers_are_left_out():
    layers = {
        "layer1": LayerOutput(np.ones((1, 4, 3), np.float32)),  # of a ViT
        "stage1": LayerOutput(np.zeros((1, 4, 3), np.float32)),
        "stage2": LayerOutput(np.ones((1, 5, 3), np.float32)),  # no grid of a square image
        "stage3": LayerOutput(np.ones((1, 1, 3), np.float32)),
    }
    maps = activation_maps(layers, (4, 4))
    assert list(maps) == ["stage1"]
    np.testing.assert_array_equal(maps["stage1"], np.zeros((1, 4, 4)))
