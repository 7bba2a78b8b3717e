"""Cross-entropy over a vocabulary: float64 oracle, chunks, eight devices against one."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import parallel
from ssl_jax.losses import token_cross_entropy

RNG = np.random.default_rng(0)
N, TOKENS, D, V = 8, 5, 6, 29
X = RNG.normal(size=(N, TOKENS, D)).astype(np.float32)
E = RNG.normal(size=(V, D)).astype(np.float32)
B = RNG.normal(size=V).astype(np.float32)
T = RNG.integers(0, V, (N, TOKENS)).astype(np.int32)
WEIGHTS = RNG.uniform(size=(N, TOKENS)) * (RNG.uniform(size=(N, TOKENS)) < 0.7)


def oracle(x=X, e=E, b=B, t=T):
    """Losses, hits and the gradients of the weighted sum of losses, token by token."""
    x, e, b = (np.asarray(y, np.float64) for y in (x, e, b))
    losses, hits = np.zeros(t.shape), np.zeros(t.shape, bool)
    dx, de, db = np.zeros(x.shape), np.zeros(e.shape), np.zeros(b.shape)
    for i in np.ndindex(t.shape):
        logits = e @ x[i] + b
        logits -= logits.max()
        p = np.exp(logits) / np.exp(logits).sum()
        losses[i], hits[i] = np.log(np.exp(logits).sum()) - logits[t[i]], logits.argmax() == t[i]
        d = WEIGHTS[i] * (p - np.eye(V)[t[i]])
        dx[i] = e.T @ d
        de += np.outer(d, x[i])
        db += d
    return losses, hits, (dx, de, db)


@functools.partial(jax.jit, static_argnames="chunk_size")
def value_and_grad(x, e, b, t, weights=WEIGHTS, chunk_size=2048):
    def total(x, e, b):
        losses, hits = token_cross_entropy(x, e, b, t, chunk_size=chunk_size)
        return jnp.sum(weights * losses), (losses, hits)

    (_, outputs), grads = jax.value_and_grad(total, (0, 1, 2), has_aux=True)(x, e, b)
    return outputs, grads


@pytest.mark.parametrize("chunk_size", [0, 1, 16, 39, 1000])
def test_equals_the_oracle_however_it_is_cut(chunk_size):
    (losses, hits), grads = value_and_grad(X, E, B, T, chunk_size=chunk_size)
    expected_losses, expected_hits, expected_grads = oracle()
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(hits, expected_hits)
    assert 0 < np.mean(hits) < 1
    for got, expected in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("scale", "chunk_size"), [(1.0, 3), (1e4, 3), (1.0, 0)])
def test_the_z_loss_is_added_to_value_and_gradient(scale, chunk_size):
    """Against float64 and its finite differences; large logits stay finite."""
    z = 0.03 / scale
    targets, rows = T[:2, :2], np.float32(scale) * X[:2, :2]

    def total(e):
        return token_cross_entropy(rows, e, B, targets, chunk_size=chunk_size, z_weight=z)[0].sum()

    def exact(e):
        logits = np.float64(rows) @ e.T + B
        top = logits.max(axis=-1, keepdims=True)
        log_z = np.log(np.exp(logits - top).sum(axis=-1)) + top[..., 0]
        at_target = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return (log_z - at_target + z * log_z**2).sum()

    value, grad = jax.jit(jax.value_and_grad(total))(E)
    np.testing.assert_allclose(value, exact(np.float64(E)), rtol=1e-5)
    direction, step = np.random.default_rng(1).normal(size=E.shape), 1e-5 / scale
    slope = (exact(E + step * direction) - exact(E - step * direction)) / (2 * step)
    np.testing.assert_allclose((np.float64(grad) * direction).sum(), slope, rtol=1e-4)


def test_without_a_bias_and_with_one_token_a_row():
    losses, hits = token_cross_entropy(X[:, 0], E, None, T[:, 0])
    expected_losses, expected_hits, _ = oracle(X[:, :1], E, np.zeros(V), T[:, :1])
    np.testing.assert_allclose(losses, expected_losses[:, 0], rtol=1e-5)
    np.testing.assert_array_equal(hits, expected_hits[:, 0])


def test_large_logits_do_not_overflow_and_equal_ones_hit_once():
    losses, hits = token_cross_entropy(100 * X, E, B, T)
    assert np.isfinite(losses).all() and np.max(losses) > 100
    np.testing.assert_allclose(losses, oracle(100 * X)[0], rtol=1e-4, atol=1e-4)
    losses, hits = token_cross_entropy(0 * X, E, 0 * B, T)
    np.testing.assert_allclose(losses, np.log(V), rtol=1e-6)
    np.testing.assert_array_equal(hits, T == 0)


def test_bfloat16_vectors_sum_up_in_float32():
    """The gradient of the embedding over many chunks: in bfloat16 the sum would stand still."""
    half = jnp.asarray(X, jnp.bfloat16)
    (losses, _), grads = value_and_grad(half, E, B, T)
    assert losses.dtype == jnp.float32
    assert [g.dtype for g in grads] == [jnp.bfloat16, jnp.float32, jnp.float32]
    rounded = [np.asarray(jnp.asarray(y, jnp.bfloat16), np.float64) for y in (X, E)]
    expected_losses, _, expected_grads = oracle(*rounded)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5, atol=1e-5)
    for got, expected in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(np.float64(got), expected, rtol=0.02, atol=0.02)

    many = jnp.ones((4096, 1), jnp.bfloat16)
    weights, t = np.ones(4096), np.zeros(4096, np.int32)
    _, (_, of_e, of_b) = value_and_grad(many, np.zeros((2, 1)), np.zeros(2), t, weights, 8)
    np.testing.assert_allclose(of_e[:, 0], [-2048, 2048])
    np.testing.assert_allclose(of_b, [-2048, 2048])


@pytest.mark.parametrize("sizes", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str)
def test_eight_devices_equal_one_in_value_and_gradient(sizes):
    expected = value_and_grad(X, E, B, T)
    mesh = parallel.make_mesh(**sizes)
    rows, whole = parallel.batch_sharding(mesh), parallel.replicated(mesh)
    split = NamedSharding(mesh, P(None, "fsdp"))  # as parameters may be
    x, t, weights = jax.device_put((X, T, WEIGHTS), rows)
    e, b = jax.device_put(E, split), jax.device_put(B, whole)
    with jax.set_mesh(mesh):
        for chunk_size in (0, 3, 2048):
            got = value_and_grad(x, e, b, t, weights, chunk_size)
            chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-6)


def test_the_logits_of_all_tokens_never_exist():
    m, v, d = 512, 1000, 8
    x, e, b, t = (
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (((m, d), "float32"), ((v, d), "float32"), ((v,), "float32"),
                             ((m,), "int32"))
    )  # fmt: skip
    weights = jax.ShapeDtypeStruct((m,), "float32")

    def temporaries(chunk_size):
        compiled = value_and_grad.lower(x, e, b, t, weights, chunk_size=chunk_size).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    whole = m * v * 4
    assert temporaries(m) > whole
    assert temporaries(32) < whole / 2


@pytest.mark.wrong_shapes
def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(8, 5, 6\), \(29, 6\), None and \(8,\)"):
        token_cross_entropy(X, E, None, T[:, 0])
    with pytest.raises(ValueError, match="chunk_size must be at least 0"):
        token_cross_entropy(X, E, B, T, chunk_size=-1)
