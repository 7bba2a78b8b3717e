"""DeepCluster v2's loss: its limits, its gradient, and eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import losses, parallel


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def problem(n=16, v=3, d=6, k=5, clusterings=2, seed=0):
    rng = np.random.default_rng(seed)
    z, centroids = unit(rng.normal(size=(n, v, d))), unit(rng.normal(size=(clusterings, k, d)))
    assignments = rng.integers(0, k, (n, clusterings)).astype(np.int32)
    return z, centroids.swapaxes(1, 2).copy(), assignments


def loss(*arrays, temperature=0.1):
    return losses.cluster_cross_entropy(*arrays, temperature=temperature)[0]


def oracle(z, centroids, assignments, t=0.1):
    z, centroids = np.asarray(z, np.float64), np.asarray(centroids, np.float64)
    terms = []
    for image, views in enumerate(z):
        for view in views:
            for h, weights in enumerate(centroids):
                logits = view @ weights / t
                terms.append(np.log(np.exp(logits).sum()) - logits[assignments[image, h]])
    return np.mean(terms)


def test_value_matches_the_oracle():
    np.testing.assert_allclose(loss(*problem()), oracle(*problem()), rtol=3e-6)


def test_gradient_matches_finite_differences_and_reaches_embeddings_alone():
    z, centroids, assignments = problem(n=2, v=2, d=3, k=4)
    got = jax.grad(loss)(z, centroids, assignments)
    expected = np.zeros(z.shape)
    for index in np.ndindex(z.shape):
        ends = []
        for sign in (1, -1):
            moved = np.asarray(z, np.float64)
            moved[index] += sign * 1e-5
            ends.append(oracle(moved, centroids, assignments))
        expected[index] = (ends[0] - ends[1]) / 2e-5
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert not np.any(jax.grad(loss, argnums=1)(z, centroids, assignments))


def test_views_at_their_centroid_cost_nothing_when_cold_and_all_are_hits():
    centroids = np.eye(4, dtype=np.float32)[None]
    assignments = np.array([[0], [3], [1]], np.int32)
    z = np.repeat(np.eye(4, dtype=np.float32)[assignments[:, 0]][:, None], 2, axis=1)
    value, metrics = losses.cluster_cross_entropy(z, centroids, assignments, temperature=0.01)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    assert metrics["cluster_accuracy"] == 1
    value, metrics = losses.cluster_cross_entropy(-z, centroids, assignments, temperature=1e6)
    np.testing.assert_allclose(value, np.log(4), rtol=1e-5)
    assert metrics["cluster_accuracy"] == 0


def test_eight_devices_equal_one():
    z, centroids, assignments = problem()
    expected = jax.value_and_grad(loss)(z, centroids, assignments)
    mesh = parallel.make_mesh(data=8)
    rows, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    with jax.set_mesh(mesh):
        given = jax.device_put((z, centroids, assignments), (rows, whole, rows))
        got = jax.jit(jax.value_and_grad(loss))(*given)
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(got[1], expected[1], rtol=1e-4, atol=1e-7)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="temperature must be positive"):
        loss(*(jnp.asarray(x) for x in problem()), temperature=0.0)
