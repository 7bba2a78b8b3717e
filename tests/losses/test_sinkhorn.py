"""Sinkhorn's codes against a float64 oracle: iterations, marginals, masks, range, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import losses, parallel

EPSILON = 0.05


def scores(n=12, k=5, seed=0):
    rng = np.random.default_rng(seed)
    return (0.3 * rng.normal(size=(n, k)) + 0.3 * np.arange(k)).astype(np.float32)


def oracle(scores, epsilon, iterations):
    """As the paper's Algorithm 1: a matrix of prototypes by embeddings, scaled in turn, float64."""
    q = np.exp(np.asarray(scores, np.float64) / epsilon).T
    q /= q.sum()
    k, n = q.shape
    for _ in range(iterations):
        q /= q.sum(axis=1, keepdims=True) * k
        q /= q.sum(axis=0, keepdims=True) * n
    return q.T / q.T.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("iterations", [0, 1, 3, 20])
def test_codes_match_the_oracle(iterations):
    got = losses.sinkhorn(scores(), epsilon=EPSILON, iterations=iterations)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, oracle(scores(), EPSILON, iterations), atol=2e-6)


def test_embeddings_sum_to_one_and_at_convergence_prototypes_are_used_equally():
    got = losses.sinkhorn(scores(), epsilon=0.5, iterations=100)
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(got.sum(axis=0), 12 / 5, rtol=1e-5)
    alone = losses.sinkhorn(scores(), epsilon=0.5, iterations=0)
    assert alone.sum(axis=0)[-1] > 1.2 * 12 / 5  # the prototype with the largest scores


def test_uniform_predictions_cost_the_logarithm_of_the_prototypes_with_any_code():
    """log 3000 = 8.00637."""
    k = 3000
    codes = losses.sinkhorn(jax.random.normal(jax.random.key(0), (4, k)), epsilon=EPSILON)
    codes = jnp.stack([codes, codes], axis=1)
    loss = losses.self_distillation(jnp.ones((4, 3, 2)), jnp.ones((2, k)), codes)
    np.testing.assert_allclose(loss, 8.00637, rtol=1e-6)


@pytest.mark.parametrize("iterations", [1, 3])
def test_rows_outside_the_mask_leave_the_codes_of_the_others_alone(iterations):
    mask = np.array([True] * 8 + [False] * 4)
    got = losses.sinkhorn(scores(), epsilon=EPSILON, iterations=iterations, mask=mask)
    np.testing.assert_allclose(got[:8], oracle(scores()[:8], EPSILON, iterations), atol=2e-6)
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-6)
    empty = losses.sinkhorn(scores(), epsilon=EPSILON, mask=np.zeros(12, bool))
    np.testing.assert_allclose(empty, 1 / 5, rtol=1e-6)


def test_scores_of_bfloat16_and_tiny_epsilons_stay_finite():
    """exp(1 / 0.003) overflows float32."""
    low = jnp.asarray(scores(), jnp.bfloat16)
    got = losses.sinkhorn(low, epsilon=0.003)
    expected = oracle(np.asarray(low, np.float64), 0.003, 3)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_no_gradient_reaches_the_scores():
    grad = jax.grad(lambda s: jnp.sum(losses.sinkhorn(s) ** 2))(jnp.asarray(scores()))
    assert not np.any(grad)


@pytest.mark.parametrize("sizes", [{"data": 8}, {"data": 2, "fsdp": 4}])
def test_eight_devices_equal_one(sizes):
    given, mask = scores(n=16), np.arange(16) != 3
    expected = losses.sinkhorn(given, epsilon=EPSILON, mask=mask)
    mesh = parallel.make_mesh(**sizes)
    rows = NamedSharding(mesh, P(("data", "fsdp")))
    with jax.set_mesh(mesh):
        codes = jax.jit(losses.sinkhorn, out_shardings=rows)
        got = codes(jax.device_put(given, rows), epsilon=EPSILON, mask=jax.device_put(mask, rows))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def test_an_epsilon_of_zero_is_refused():
    with pytest.raises(ValueError, match="must be positive, got 0"):
        losses.sinkhorn(jnp.asarray(scores()), epsilon=0.0)
