"""KoLeo against a float64 oracle: values, gradient, chunks, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import losses, parallel

X = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)


def oracle(x, chunk):
    """Row by row, in float64."""
    terms = []
    for start in range(0, len(x), chunk):
        rows = [row / np.linalg.norm(row) for row in np.asarray(x, np.float64)[start:][:chunk]]
        for i, row in enumerate(rows):
            others = [np.linalg.norm(row - other) for j, other in enumerate(rows) if j != i]
            terms.append(-np.log(min(others)))
    return np.mean(terms)


@pytest.mark.parametrize("chunk", [2, 4, 16])
def test_value_and_gradient_match_the_oracle(chunk):
    value, grad = jax.value_and_grad(lambda x: losses.koleo(x, chunk=chunk))(jnp.asarray(X))
    np.testing.assert_allclose(value, oracle(X, chunk), rtol=1e-5)
    direction = np.random.default_rng(1).normal(size=X.shape)
    slope = (oracle(X + 1e-6 * direction, chunk) - oracle(X - 1e-6 * direction, chunk)) / 2e-6
    np.testing.assert_allclose(np.sum(grad * direction), slope, rtol=1e-3)


def test_orthogonal_vectors_and_equal_ones():
    """-log sqrt(2) = -0.34657; equal vectors have a finite value and gradient."""
    orthogonal = 3 * jnp.eye(8)
    np.testing.assert_allclose(losses.koleo(orthogonal, chunk=8), -0.34657, atol=1e-5)
    value, grad = jax.value_and_grad(lambda x: losses.koleo(x, chunk=4))(jnp.ones((4, 3)))
    assert np.isfinite(value) and value > 10 and np.isfinite(grad).all()


def test_eight_devices_give_the_value_and_gradient_of_one():
    """Chunks that are smaller and larger than the rows of a device."""
    mesh = parallel.make_mesh(devices=jax.devices()[:8])
    for chunk in (2, 8):
        step = jax.value_and_grad(lambda x, chunk=chunk: losses.koleo(x, chunk=chunk))
        one = jax.jit(step)(X)
        with jax.set_mesh(mesh):
            eight = jax.jit(step)(jax.device_put(X, NamedSharding(mesh, P("data"))))
        for a, b in zip(one, eight, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 5, 32])
def test_chunks_that_do_not_divide_the_rows_are_refused(chunk):
    with pytest.raises(ValueError, match=f"chunks of {chunk} of 16 rows; use at least 2"):
        losses.koleo(X, chunk=chunk)
