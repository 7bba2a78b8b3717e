"""Spherical k-means against a float64 oracle, on separated directions, and on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import clustering, parallel


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def rows(n=64, d=6, seed=0):
    return unit(np.random.default_rng(seed).normal(size=(n, d)))


def oracle(x, centroids, iterations):
    """Row by row, in float64."""
    x, centroids = np.asarray(x, np.float64), np.asarray(centroids, np.float64)
    for _ in range(iterations):
        nearest = np.argmax(x @ centroids.T, axis=1)
        for k in range(len(centroids)):
            if (nearest == k).any():
                centroids[k] = x[nearest == k].sum(axis=0)
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    return centroids, np.argmax(x @ centroids.T, axis=1)


def first_centroids(x, mask, key, k):
    return clustering.spherical_kmeans(x, mask, key=key, num_clusters=k, iterations=0).centroids


@pytest.mark.parametrize("chunk", [4096, 24])
def test_updates_match_the_oracle(chunk):
    """Also when a device's rows do not divide into chunks."""
    x, mask, key = rows(), np.ones(64, bool), jax.random.key(3)
    first = first_centroids(x, mask, key, 5)
    assert all(np.any(np.all(x == row, axis=1)) for row in np.asarray(first))
    assert len(np.unique(first, axis=0)) == 5
    got = clustering.spherical_kmeans(x, mask, key=key, num_clusters=5, iterations=4, chunk=chunk)
    centroids, assignments = oracle(x, first, 4)
    np.testing.assert_allclose(got.centroids, centroids, atol=1e-5)
    np.testing.assert_array_equal(got.assignments, assignments)
    np.testing.assert_allclose(np.linalg.norm(got.centroids, axis=1), 1, rtol=1e-6)


def test_separated_directions_are_recovered():
    """Once each direction has a first centroid, which the draw of a seed decides."""
    rng = np.random.default_rng(0)
    member = np.repeat(np.arange(4), 16)
    x = unit(np.eye(4, 8)[member] + 0.05 * rng.normal(size=(64, 8)))
    for seed in range(200):
        key, mask = jax.random.key(seed), np.ones(64, bool)
        drawn = np.argmax(np.asarray(first_centroids(x, mask, key, 4))[:, :4], axis=1)
        if len(set(drawn)) == 4:
            break
    got = clustering.spherical_kmeans(x, mask, key=key, num_clusters=4)
    np.testing.assert_array_equal(drawn[got.assignments], member)


def test_masked_rows_neither_start_nor_move_a_cluster():
    x = rows()
    mask = np.arange(64) % 2 == 0
    key = jax.random.key(1)
    moved = np.where(mask[:, None], x, -x)
    got, other = (
        clustering.spherical_kmeans(rows, mask, key=key, num_clusters=5) for rows in (x, moved)
    )
    np.testing.assert_array_equal(got.centroids, other.centroids)
    assert (np.asarray(got.assignments) == -1).sum() == 32
    np.testing.assert_array_equal(np.asarray(got.assignments) == -1, ~mask)


def test_an_empty_cluster_keeps_its_centroid():
    """Two centroids on one point: all rows go to the first."""
    x = unit(np.array([[1.0, 0], [1, 0], [1, 0.1], [1, -0.1]]))
    got = clustering.spherical_kmeans(x, np.ones(4, bool), key=jax.random.key(0), num_clusters=4)
    first = first_centroids(x, np.ones(4, bool), jax.random.key(0), 4)
    empty = [k for k in range(4) if k not in np.asarray(got.assignments)]
    assert empty and np.all(np.isfinite(got.centroids))
    np.testing.assert_allclose(got.centroids[np.array(empty)], first[np.array(empty)], rtol=1e-6)


@pytest.mark.parametrize("sizes", [{"data": 8}, {"data": 2, "fsdp": 4}])
def test_eight_devices_equal_one(sizes):
    x, mask, key = rows(), np.arange(64) < 60, jax.random.key(2)
    expected = clustering.spherical_kmeans(x, mask, key=key, num_clusters=5)
    mesh = parallel.make_mesh(**sizes)
    split = NamedSharding(mesh, P(("data", "fsdp")))
    with jax.set_mesh(mesh):
        given = jax.device_put((x, mask), split)
        got = clustering.spherical_kmeans(*given, key=key, num_clusters=5)
        assert got.assignments.sharding.is_equivalent_to(split, 1)
    np.testing.assert_allclose(got.centroids, expected.centroids, atol=1e-5)
    np.testing.assert_array_equal(got.assignments, expected.assignments)


def test_no_array_has_a_column_for_each_cluster_and_a_row_for_each_example():
    shapes = jax.ShapeDtypeStruct((4096, 4), jnp.float32), jax.ShapeDtypeStruct((4096,), bool)
    key = jax.random.key(0)
    program = clustering.spherical_kmeans.lower(
        *shapes, key=key, num_clusters=256, iterations=2, chunk=64
    )
    used = program.compile().memory_analysis().temp_size_in_bytes
    assert used < 4096 * 256 * 4 / 4, used


def points(n=64, d=3):
    return np.random.default_rng(2).normal(size=(n, d)).astype(np.float32)


@pytest.mark.parametrize("chunk", [4096, 24])
def test_euclidean_updates_match_the_oracle(chunk):
    x, key = points(), jax.random.key(1)
    mask = np.arange(64) < 60
    first = np.asarray(
        clustering.kmeans(x, mask, key=key, num_clusters=6, iterations=0).centroids, np.float64
    )
    assert all(np.any(np.all(np.float32(row) == x[:60], axis=1)) for row in first)
    got = clustering.kmeans(x, mask, key=key, num_clusters=6, iterations=5, chunk=chunk)
    centroids = first.copy()
    for _ in range(5):
        near = np.square(np.float64(x[:60])[:, None] - centroids).sum(-1).argmin(axis=1)
        for k in range(6):
            if (near == k).any():
                centroids[k] = x[:60][near == k].mean(axis=0)
    near = np.square(np.float64(x[:60])[:, None] - centroids).sum(-1).argmin(axis=1)
    np.testing.assert_allclose(got.centroids, centroids, atol=1e-5)
    np.testing.assert_array_equal(got.assignments, [*near, -1, -1, -1, -1])
    np.testing.assert_array_equal(clustering.nearest(x[:60], got.centroids), near)


def test_first_centroids_are_different_rows_drawn_by_squared_distance():
    """Most rows are equal; of three places the far one is drawn as its distance says."""
    x = np.repeat(np.array([[0.0], [1.0], [3.0]], np.float32), [60, 2, 2], axis=0)
    drawn = [
        np.sort(clustering.kmeans(x, np.ones(64, bool), key=key, num_clusters=3, iterations=0)
                .centroids.ravel())
        for key in jax.random.split(jax.random.key(0), 20)
    ]  # fmt: skip
    np.testing.assert_array_equal(drawn, np.tile([0.0, 1.0, 3.0], (20, 1)))
    second = jax.vmap(
        lambda key: clustering.kmeans(
            x, jnp.ones(64, bool), key=key, num_clusters=2, iterations=0
        ).centroids.ravel()
    )(jax.random.split(jax.random.key(1), 2000))
    from_zero = np.asarray(second)[np.asarray(second)[:, 0] == 0, 1]
    np.testing.assert_allclose((from_zero == 3).mean(), 0.9, atol=0.03)  # 9 of 9 + 1
    # More clusters than places: nothing breaks.
    many = clustering.kmeans(x, np.ones(64, bool), key=jax.random.key(2), num_clusters=5)
    assert set(np.unique(many.centroids)) == {0.0, 1.0, 3.0}


def test_euclidean_clusters_do_not_depend_on_the_number_of_devices():
    x, mask, key = points(), np.ones(64, bool), jax.random.key(4)
    one = clustering.kmeans(x, mask, key=key, num_clusters=6)
    mesh = parallel.make_mesh(devices=jax.devices()[:8])
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, P(("data", "fsdp")))
        split = clustering.kmeans(
            jax.device_put(x, rows), jax.device_put(mask, rows), key=key, num_clusters=6
        )
    np.testing.assert_allclose(one.centroids, split.centroids, atol=1e-6)
    np.testing.assert_array_equal(one.assignments, split.assignments)
