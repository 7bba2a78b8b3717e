"""The losses of context encoders, against float64 oracles."""

import jax
import numpy as np

from ssl_jax import losses


def test_the_squared_error_is_the_oracles_and_ignores_pixels_without_weight():
    rng = np.random.default_rng(0)
    predicted, target = rng.normal(size=(2, 2, 4, 5, 3)).astype(np.float32)
    weight = rng.choice([0.0, 1.0, 10.0], size=(2, 4, 5)).astype(np.float32)
    expected = [
        (w[..., None].astype(np.float64) * (p - t) ** 2).sum() / 3 / (w > 0).sum()
        for p, t, w in zip(predicted, target, weight, strict=True)
    ]
    np.testing.assert_allclose(
        losses.weighted_squared_error(predicted, target, weight), expected, rtol=1e-5
    )
    grad = jax.grad(lambda p: losses.weighted_squared_error(p, target, weight).sum())(predicted)
    count = (weight > 0).sum(axis=(1, 2))[:, None, None, None]
    expected = 2 * weight[..., None] * (predicted - target) / 3 / count
    np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=1e-7)
    assert not np.any(np.asarray(grad)[weight == 0])


def test_adversarial_losses_are_cross_entropies_of_the_discriminator():
    real, fake = np.random.default_rng(1).normal(size=(2, 6)).astype(np.float32) * 3
    d = 1 / (1 + np.exp(-np.stack([real, fake]).astype(np.float64)))
    np.testing.assert_allclose(
        losses.discriminator_loss(real, fake), -np.log(d[0]) - np.log(1 - d[1]), rtol=1e-5
    )
    np.testing.assert_allclose(losses.generator_loss(fake), -np.log(d[1]), rtol=1e-5)


def test_psnr_of_a_known_error():
    target = np.full((1, 4, 4, 3), 0.5, np.float32)
    predicted = target + np.float32(0.1)
    np.testing.assert_allclose(losses.psnr(predicted, target, np.ones((1, 4, 4))), 20, rtol=1e-4)
