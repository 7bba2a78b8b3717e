"""LiDAR, alpha-ReQ and CLID against loops, and how they behave."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from ssl_jax.core.errors import UserError
from ssl_jax.evals import alpha_req, clid, lidar
from ssl_jax.evals.known import Known


def _lidar_oracle(z, delta):
    """Sums over images and views, then the inverse root of the covariance within images."""
    n, q, d = z.shape
    means = [sum(views) / q for views in z]
    whole = sum(means) / n
    between, within = np.zeros((d, d)), delta * np.eye(d)
    for views, mean in zip(z, means, strict=True):
        between += np.outer(mean - whole, mean - whole) / (n - 1)
        for view in views:
            within += np.outer(view - mean, view - mean) / (n * (q - 1))
    values, vectors = np.linalg.eigh(within)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root @ between @ root)
    p = np.maximum(eigenvalues, 0) / eigenvalues.sum()
    return np.exp(-sum(x * np.log(x) for x in p if x > 0))


@pytest.mark.parametrize("n, q, d", [(30, 4, 5), (6, 3, 9)])
def test_lidar(n, q, d):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, 1, d)) * np.linspace(2, 0.1, d) + 0.3 * rng.normal(size=(n, q, d))
    assert lidar.rank(z, delta=1e-3) == pytest.approx(_lidar_oracle(z, 1e-3), rel=1e-9)


def test_lidar_counts_what_tells_images_apart():
    rng = np.random.default_rng(1)
    means = rng.normal(size=(2000, 1, 6))
    noise = rng.normal(size=(2000, 5, 6))
    assert lidar.rank(means + 0.01 * noise) == pytest.approx(6, abs=0.05)
    moved = means + noise * np.array([0.01, 0.01, 3, 3, 3, 3])  # augmentation moves four of them
    assert lidar.rank(moved) == pytest.approx(2, abs=0.05)
    assert lidar.rank(np.zeros((4, 3, 5))) == 1  # collapsed
    assert np.isfinite(lidar.rank(1e15 * means + noise))


def test_views_depend_on_key_and_index_alone():
    images = np.random.default_rng(2).integers(0, 255, (6, 12, 12, 3)).astype(np.uint8)
    section = ConfigDict({
        "ops": ("random_resized_crop", "normalize"), "random_resized_crop": {"size": 8},
        "normalize": {}, "overrides": {}, "families": {},
    })  # fmt: skip
    augment = lidar.augmentation(section)
    key, index = jax.random.key(0), jnp.arange(6)
    views = augment(key, index, images)
    assert views.shape == (6, 8, 8, 3) and views.min() >= 0 and views.max() <= 1
    np.testing.assert_allclose(augment(key, index[2:4], images[2:4]), views[2:4], atol=1e-6)
    assert (augment(jax.random.key(1), index, images) != views).any()
    assert lidar.augmentation({"ops": ()})(key, index, images).shape[0] == 6  # crops and flips


def _alpha_oracle(values, first, last):
    """Weighted normal equations, summed rank by rank."""
    a, b = np.zeros((2, 2)), np.zeros(2)
    for rank in range(first, min(last, len(values)) + 1):
        row = np.array([-np.log(rank), 1.0])
        a += np.outer(row, row) / rank
        b += row * np.log(values[rank - 1]) / rank
    return np.linalg.solve(a, b)[0]


def test_alpha_req():
    rng = np.random.default_rng(3)
    values = np.sort(rng.uniform(0.1, 2, 40))[::-1]
    for first, last in ((1, 40), (4, 100), (4, 20)):
        got = alpha_req.alpha(values, first=first, last=last)
        assert got == pytest.approx(_alpha_oracle(values, first, last))
    for exponent in (0.5, 1.0, 2.0):
        power = np.arange(1.0, 61.0) ** -exponent
        assert alpha_req.alpha(3 * power) == pytest.approx(exponent)


def test_spectrum():
    rng = np.random.default_rng(4)
    h = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 7)) + 5
    values = alpha_req.spectrum(h)
    covariance = sum(np.outer(x - h.mean(0), x - h.mean(0)) for x in h) / 49
    np.testing.assert_allclose(values, np.sort(np.linalg.eigvalsh(covariance))[::-1][:3])
    with pytest.raises(UserError, match="fits ranks 4 to 100, but the features have 3 eigenvalues"):
        alpha_req.evaluate({"h": h})
    with pytest.raises(UserError, match="features have 0 eigenvalues"):
        alpha_req.evaluate({"h": np.ones((9, 4))})


def test_two_nearest_neighbours():
    rng = np.random.default_rng(5)
    h = rng.normal(size=(60, 4))
    h[7] = h[3]  # an equal pair is left out
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    logs = []
    for i, row in enumerate(unit):
        far = sorted(np.linalg.norm(row - other) for j, other in enumerate(unit) if j != i)
        if i not in (3, 7):
            logs.append(np.log(far[1] / far[0]))
    assert clid.two_nn(h) == pytest.approx(len(logs) / sum(logs), rel=1e-5)
    assert clid.two_nn(np.ones((9, 3))) == 0
    for dimension in (1, 3):  # of a sphere in ten dimensions
        flat = rng.normal(size=(2000, dimension + 1)) @ np.eye(dimension + 1, 10)
        assert clid.two_nn(flat) == pytest.approx(dimension, rel=0.1)


def test_learnability():
    rng = np.random.default_rng(6)
    centres = 5 * np.eye(12)[rng.integers(0, 12, 144)]
    clear = {"h": (centres + 0.01 * rng.normal(size=(144, 12))).astype(np.float32)}
    got = clid.evaluate(clear)
    assert got["learnability"] == 1
    assert got["clid"] == pytest.approx(1 + min(got["dimension"] / 12, 1))
    noise = {"h": rng.normal(size=(144, 12)).astype(np.float32)}
    assert 0.05 < clid.evaluate(noise)["learnability"] < 0.7
    assert clid.evaluate(noise, max_examples=8)["learnability"] <= 1
    with pytest.raises(UserError, match="at least 8 train examples, and there are 7"):
        clid.evaluate({"h": np.ones((7, 2))})


def test_a_single_image_is_told_before_the_run():
    with pytest.raises(UserError, match="at least two train images"):
        lidar.check(Known(train=None, test=None, num_train=1), images=1000)
