"""Corrupted images of denoising autoencoders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.views.corruption import corrupt

X = np.random.default_rng(0).uniform(0.2, 0.8, (4, 50, 50, 1)).astype(np.float32)


def corrupted(kind, amount, x=X):
    keys = jax.random.split(jax.random.key(0), len(x))
    run = jax.jit(corrupt, static_argnames=("kind", "amount"))
    return np.asarray(run(keys, jnp.asarray(x), kind=kind, amount=amount))


def test_masking_and_salt_and_pepper_change_their_share_of_the_values():
    for kind, values in (("masking", {0.0}), ("salt_and_pepper", {0.0, 1.0})):
        out = corrupted(kind, 0.3)
        changed = out != X
        assert set(np.unique(out[changed])) == values
        assert abs(changed.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / X.size)
        if kind == "salt_and_pepper":
            assert abs(out[changed].mean() - 0.5) < 4 * 0.5 / np.sqrt(0.3 * X.size)
        np.testing.assert_array_equal(corrupted(kind, 0.0), X)


def test_noise_has_its_standard_deviation_and_is_not_clipped():
    noise = corrupted("gaussian", 0.5) - X
    assert abs(noise.std() - 0.5) < 0.02 and abs(noise.mean()) < 0.02
    assert corrupted("gaussian", 0.5).min() < -0.3


@pytest.mark.parametrize("kind", ["masking", "salt_and_pepper", "gaussian"])
def test_each_image_has_its_own_noise(kind):
    """It does not depend on the other images of the batch."""
    same = np.repeat(X[:1], 4, axis=0)
    out = corrupted(kind, 0.4, same)
    assert len({image.tobytes() for image in out}) == 4
    keys = jax.random.split(jax.random.key(0), 4)
    for i, image in enumerate(out):
        alone = corrupt(keys[i : i + 1], jnp.asarray(same[:1]), kind=kind, amount=0.4)
        np.testing.assert_allclose(alone[0], image, atol=1e-6)
