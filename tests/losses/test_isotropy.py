"""LeJEPA's terms against float64 oracles, their closed forms, and eight devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import losses, parallel

KEY = jax.random.key(0)


def embeddings(n=16, d=6, seed=0):
    return (1.5 * np.random.default_rng(seed).normal(size=(n, d)) + 0.2).astype(np.float32)


def oracle(z, slices=8, points=17, last=3.0):
    """Slice by slice and point by point, with numpy's trapezoid over -3 to 3, in float64."""
    directions = np.asarray(jax.random.normal(KEY, (slices, z.shape[1])), np.float64)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    t = np.linspace(-last, last, 2 * points - 1)
    values = []
    for direction in directions:
        x = np.asarray(z, np.float64) @ direction
        distance = [abs(np.mean(np.exp(1j * s * x)) - np.exp(-(s**2) / 2)) ** 2 for s in t]
        values.append(len(x) * np.trapezoid(distance * np.exp(-(t**2) / 2), t))
    return np.mean(values)


sigreg = functools.partial(losses.sigreg, key=KEY, num_slices=8)


def test_value_matches_the_oracle():
    np.testing.assert_allclose(sigreg(embeddings()), oracle(embeddings()), rtol=1e-5)


def test_gradient_matches_finite_differences_of_the_oracle():
    z = embeddings(n=4, d=3)
    expected = np.zeros(z.shape)
    for index in np.ndindex(z.shape):
        ends = []
        for sign in (1, -1):
            moved = np.asarray(z, np.float64)
            moved[index] += sign * 1e-5
            ends.append(oracle(moved))
        expected[index] = (ends[0] - ends[1]) / 2e-5
    np.testing.assert_allclose(jax.grad(sigreg)(z), expected, rtol=1e-3, atol=1e-5)


def test_equal_embeddings_cost_with_their_number_and_normal_ones_the_same_for_any():
    """0.40205 n at 0; the expectation for standard normal embeddings is 1.05246 for every n."""
    for n in (8, 64):
        np.testing.assert_allclose(sigreg(np.zeros((n, 4), np.float32)), 0.40205 * n, rtol=1e-4)
    many = jax.jit(functools.partial(losses.sigreg, num_slices=32))
    for n in (16, 128):
        keys = jax.random.split(jax.random.key(n), 300)
        draws = [
            many(jax.random.normal(jax.random.fold_in(key, 1), (n, 32)), key=key) for key in keys
        ]
        np.testing.assert_allclose(np.mean(draws), 1.05246, rtol=0.05)


def test_eight_devices_equal_one_in_value_and_gradient():
    """The strength of the regulariser does not depend on the number of devices."""
    expected = jax.value_and_grad(sigreg)(embeddings())
    mesh = parallel.make_mesh(data=8)
    with jax.set_mesh(mesh):
        given = jax.device_put(embeddings(), NamedSharding(mesh, P("data")))
        got = jax.jit(jax.value_and_grad(sigreg))(given)
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(got[1], expected[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("large", [1, 2, 4])
def test_invariance_is_the_distance_to_the_centre_of_the_large_views(large):
    z = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    centre = z[:, :large].astype(np.float64).mean(axis=1, keepdims=True)
    expected = np.mean((z - centre) ** 2)
    np.testing.assert_allclose(losses.invariance(jnp.asarray(z), large=large), expected, rtol=1e-5)
    same = jnp.asarray(np.repeat(z[:, :1], 4, axis=1))
    np.testing.assert_allclose(losses.invariance(same, large=large), 0, atol=1e-12)


def test_bad_numbers_are_named():
    with pytest.raises(ValueError, match="got 0 and 17"):
        losses.sigreg(embeddings(), key=KEY, num_slices=0)
    with pytest.raises(ValueError, match="large must be between 1 and 2"):
        losses.invariance(jnp.zeros((4, 2, 3)), large=3)
