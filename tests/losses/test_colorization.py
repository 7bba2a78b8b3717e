"""The loss of colour bins."""

import math

import jax
import numpy as np
import pytest

from ssl_jax import losses


def test_weights_are_one_on_average_over_the_data():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(313, 0.1)).astype(np.float32)
    for share in (0.5, 0.1, 1.0):
        w = np.asarray(losses.rebalancing_weights(p, uniform_share=share), np.float64)
        inverse = 1 / ((1 - share) * p.astype(np.float64) + share / 313)
        np.testing.assert_allclose(w, inverse / (p * inverse).sum(), rtol=1e-5)
        assert (p * w).sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(w, 1, rtol=1e-5)  # lambda = 1: no rebalancing


def test_value_and_gradient_match_the_oracle():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 4, 7)).astype(np.float32)
    target = rng.dirichlet(np.ones(7), size=(3, 4)).astype(np.float32)
    wide = logits.astype(np.float64)
    log_p = wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    got = losses.soft_cross_entropy(logits, target)
    np.testing.assert_allclose(got, -(target * log_p).sum(axis=-1), rtol=1e-5)
    grad = jax.grad(lambda x: losses.soft_cross_entropy(x, target).sum())(logits)
    np.testing.assert_allclose(grad, np.exp(log_p) - target, atol=1e-6)


def test_a_uniform_prediction_costs_log_313():
    target = np.random.default_rng(0).dirichlet(np.ones(313), size=2)
    loss = losses.soft_cross_entropy(np.zeros((2, 313), np.float32), target.astype(np.float32))
    np.testing.assert_allclose(loss, math.log(313), rtol=1e-5)
    assert math.log(313) == pytest.approx(5.7462, abs=1e-4)
