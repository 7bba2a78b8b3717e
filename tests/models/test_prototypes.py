"""Prototypes: weight normalisation against its formula, and what it means for gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.models import count_parameters
from ssl_jax.models.prototypes import prototype_matrix, prototypes

X = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)


def test_rows_have_the_length_that_the_magnitude_says():
    params, buffers = prototypes(9).init(jax.random.key(0), X)
    assert not buffers and {name: p.shape for name, p in params.items()} == {"direction": (6, 9)}
    assert np.abs(params["direction"]).max() <= 1 / np.sqrt(6)
    np.testing.assert_allclose(np.linalg.norm(prototype_matrix(params), axis=0), 1, rtol=1e-6)

    net = prototypes(9, learn_magnitude=True)
    params, _ = net.init(jax.random.key(0), X)
    np.testing.assert_array_equal(params["magnitude"], np.ones(9))
    params["magnitude"] = jnp.arange(1.0, 10.0)
    v = np.asarray(params["direction"], np.float64)
    w = np.arange(1, 10) * v / np.linalg.norm(v, axis=0)
    y, _ = net.apply(params, {}, X, train=True)
    np.testing.assert_allclose(y, X @ w, rtol=1e-5, atol=1e-6)


def test_gradients_are_orthogonal_to_the_directions():
    net = prototypes(9)
    params, _ = net.init(jax.random.key(0), X)
    grad = jax.grad(lambda p: jnp.sum(net.apply(p, {}, X, train=True)[0] ** 3))(params)
    products = np.sum(np.asarray(grad["direction"]) * params["direction"], axis=0)
    assert np.abs(grad["direction"]).max() > 0.1
    np.testing.assert_allclose(products, 0, atol=1e-4)


def test_dinos_number_of_parameters():
    u = jax.ShapeDtypeStruct((2, 256), jnp.float32)
    fixed, learned = (
        jax.eval_shape(prototypes(65536, learn_magnitude=learn).init, jax.random.key(0), u)[0]
        for learn in (False, True)
    )
    assert count_parameters(fixed) == 256 * 65536
    assert count_parameters(learned) == 257 * 65536


def test_too_few_prototypes_are_refused():
    with pytest.raises(UserError, match="1 prototypes cannot tell"):
        prototypes(1)
