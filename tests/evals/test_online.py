import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from ssl_jax.evals import online

_update = jax.jit(online.update)


def _pixels():
    pixels, label = load_digits(return_X_y=True)
    return (pixels / 16.0).astype(np.float32), label.astype(np.int32)


def _random_network(width, seed=0):
    pixels, label = _pixels()
    rng = np.random.default_rng(seed)
    h = np.maximum(pixels @ rng.normal(size=(64, width)) / 8, 0)
    return h.astype(np.float32), label


def _train(h, label, steps=400, batch=128, seed=0):
    rng = np.random.default_rng(seed)
    state = online.init(jax.random.key(0), h.shape[1], 10)
    history = []
    for _ in range(steps):
        index = rng.permutation(len(h))[:batch]
        state, metrics = _update(state, h[index], label[index])
        history.append(float(metrics["accuracy"]))
    return state, history


@pytest.mark.parametrize("width, scale", [(32, 1.0), (512, 1e-3), (512, 1e3)])
def test_learns_at_every_width_and_scale(width, scale):
    h, label = _random_network(width)
    h = scale * h + 5 * scale
    state, history = _train(h, label)
    assert history[0] < 0.3
    assert np.mean(history[-20:]) > 0.85
    accuracy = (np.asarray(online.predict(state, h)).argmax(axis=1) == label).mean()
    assert accuracy > 0.85


def test_follows_features_that_change():
    """Halfway the encoder's features turn over, grow and shift."""
    h, label = _random_network(64)
    state, _ = _train(h, label, steps=200)
    rng, history = np.random.default_rng(1), []
    for _ in range(300):
        index = rng.permutation(len(h))[:128]
        state, metrics = _update(state, 50.0 - 20.0 * h[index, ::-1], label[index])
        history.append(float(metrics["accuracy"]))
    assert history[0] < 0.5 and np.mean(history[-20:]) > 0.85


def test_metrics_are_those_before_the_update():
    h, label = _random_network(32)
    state = online.init(jax.random.key(0), 32, 10)
    state, first = _update(state, h[:64], label[:64])
    assert first["loss"] == pytest.approx(np.log(10.0), rel=1e-6)
    # One update on a single repeated example would make it right at once if measured after.
    assert first["accuracy"] == pytest.approx((label[:64] == 0).mean())
    x = h[64:128].astype(np.float64)
    x = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)
    logits = x @ np.asarray(state["params"]["kernel"]) + np.asarray(state["params"]["bias"])
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    _, second = _update(state, h[64:128], label[64:128])
    expected = -log_p[np.arange(64), label[64:128]].mean()
    assert second["loss"] == pytest.approx(expected, rel=1e-5)
    assert second["accuracy"] == pytest.approx((logits.argmax(axis=1) == label[64:128]).mean())


def test_unlabelled_rows_teach_nothing():
    h, label = _random_network(16)
    state, _ = _update(online.init(jax.random.key(0), 16, 10), h[:64], label[:64])
    half = np.where(np.arange(64) % 2 == 0, label[64:128], -1)
    got, metrics = _update(state, h[64:128], half)

    x = h[64:128]
    x = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)  # statistics need no label

    def loss(params):
        logits = x[::2] @ params["kernel"] + params["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, label[64:128:2]).mean()

    @jax.jit
    def step(params, opt_state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, _ = optax.adam(0.1 / 4.0).update(grads, opt_state)
        return value, optax.apply_updates(params, updates)

    value, expected = step(state["params"], state["opt_state"])
    assert metrics["loss"] == pytest.approx(float(value), rel=1e-5)
    np.testing.assert_allclose(got["params"]["kernel"], expected["kernel"], atol=2e-4)


def test_a_batch_without_labels_changes_nothing():
    h, label = _random_network(16)
    state, metrics = _update(online.init(jax.random.key(0), 16, 10), h[:64], label[:64])
    same, repeated = _update(state, 3.0 * h[64:128], np.full(64, -1, np.int32))
    chex.assert_trees_all_equal(same, state)
    assert repeated == metrics


def test_no_gradient_reaches_the_encoder():
    h, label = _random_network(16)
    state = _update(online.init(jax.random.key(0), 16, 10), h[:64], label[:64])[0]

    def loss(h):
        return online.update(state, h, label[:64])[1]["loss"]

    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(h[:64]), np.zeros((64, 16)))


def test_state_is_stable_and_features_may_be_bfloat16():
    state = online.init(jax.random.key(0), 8, 3)
    h = jnp.ones((4, 8), jnp.bfloat16)  # constant features: no division by zero
    following, metrics = jax.eval_shape(online.update, state, h, jnp.zeros(4, jnp.int32))
    chex.assert_trees_all_equal_structs(following, state)
    shapes = lambda tree: [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]  # noqa: E731
    assert shapes(following) == shapes(state)
    assert {x.dtype for x in metrics.values()} == {jnp.dtype("float32")}
    following, metrics = _update(state, h, jnp.zeros(4, jnp.int32))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((following, metrics)))
