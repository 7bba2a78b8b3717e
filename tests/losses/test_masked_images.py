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


def test_errors_of_blocks_are_squares_when_small_and_lengths_when_large():
    """Padding does not count, and an image without patches costs nothing."""
    predicted = np.zeros((2, 1, 3, 2), np.float32)
    target = np.array([[0.5, -0.5], [3.0, -3.0], [9.0, 9.0]], np.float32) * np.ones((2, 1, 1, 1))
    mask = np.array([[[True, True, False]], [[False, False, False]]])
    target = target.astype(np.float32)
    got = losses.smooth_l1_of_blocks(predicted, target, mask)
    np.testing.assert_allclose(got, [(0.125 + 2.5) / 2, 0], rtol=1e-6)
    grad = jax.grad(lambda p: losses.smooth_l1_of_blocks(p, target, mask).sum())(predicted)
    np.testing.assert_allclose(grad[0, 0], [[-0.125, 0.125], [-0.25, 0.25], [0, 0]], rtol=1e-6)
    assert not np.any(grad[1])


def test_what_targets_of_patches_tell_of_their_images():
    """A loop in float64; targets that depend on the position alone tell nothing."""
    targets = 3 * np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    squares, errors = [], []
    for place in range(4):
        for value in range(3):
            column = targets[:, place, value].astype(np.float64)
            for x in np.abs(column - column.mean()):
                squares.append(x * x)
                errors.append(0.5 * x * x if x < 1 else x - 0.5)
    assert min(errors) < 0.5 < max(errors)
    got = losses.patch_target_statistics(targets)
    np.testing.assert_allclose(got["patch_target_variance"], np.mean(squares), rtol=1e-5)
    np.testing.assert_allclose(got["blind_loss"], np.mean(errors), rtol=1e-5)
    positions = np.broadcast_to(targets[:1], targets.shape)
    for name, value in losses.patch_target_statistics(positions).items():
        np.testing.assert_allclose(value, 0, atol=1e-12, err_msg=name)
