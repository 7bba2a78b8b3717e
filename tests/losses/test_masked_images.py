"""The error of hidden patches."""

import jax
import numpy as np

from ssl_jax import losses
from ssl_jax.models.patches import patch_statistics


def test_value_and_gradient_match_the_oracle():
    rng = np.random.default_rng(0)
    predicted, target = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    got = losses.patch_error(predicted, target)
    expected = [
        np.mean((a.astype(np.float64) - b) ** 2) for a, b in zip(predicted, target, strict=True)
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    grad = jax.grad(lambda x: losses.patch_error(x, target).sum())(predicted)
    np.testing.assert_allclose(grad, 2 * (predicted - target) / 20, rtol=1e-5)


def test_predictions_of_zero_cost_almost_one_when_patches_are_normalised():
    """767/768 of a patch of 16x16 in colour."""
    patches = 5 + 3 * jax.random.normal(jax.random.key(0), (2, 4, 768))
    mean, deviation = patch_statistics(patches)
    target = (patches - mean) / deviation
    np.testing.assert_allclose(losses.patch_error(0 * target, target), 0.99870, rtol=1e-4)
