"""The losses of word vectors against loops over pairs in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import parallel
from ssl_jax.losses import word_vectors

V, D, K = 11, 6, 3


def softplus(x):
    return np.log1p(np.exp(-abs(x))) + max(x, 0.0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def tables(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, V, D))


def word2vec_pair(v, u, contexts, outputs):
    """The loss of a pair and word2vec.c's gradients: contexts are ids, outputs (id, label)."""
    h = sum(v[c] for c in contexts) / len(contexts)
    d_v, d_u, d_h, loss = np.zeros_like(v), np.zeros_like(u), np.zeros(D), 0.0
    for word, label in outputs:
        x = u[word] @ h
        loss += softplus(-x if label else x)
        slope = sigmoid(x) - label
        d_h += slope * u[word]
        d_u[word] += slope * h
    for c in contexts:
        d_v[c] += d_h  # the whole gradient, not its share of the mean
    return loss, d_v, d_u


def add(parts):
    return [sum(part) for part in zip(*parts, strict=True)]


def lists(seed, n, p, s):
    """Random pairs, some of them unused, some with contexts or negatives that do not count."""
    rng = np.random.default_rng(seed)
    contexts = rng.integers(0, V, (n, p, s))
    context_valid = rng.random((n, p, s)) < 0.7
    context_valid[..., 0] = True
    outputs = rng.integers(0, V, (n, p, 1 + K))
    valid = outputs != outputs[..., :1]
    valid[..., 0] = True
    valid[:, -1] = False
    return contexts, context_valid, outputs, valid


@pytest.mark.parametrize("s", [1, 4])
def test_sampled_loss_and_gradients_are_those_of_word2vec_c(s):
    v, u = tables()
    arrays = contexts, context_valid, outputs, valid = lists(1, 2, 5, s)
    parts = []
    for row, pair in np.ndindex(2, 5):
        if not valid[row, pair].any():
            continue
        words = contexts[row, pair][context_valid[row, pair]]
        labelled = [
            (word, place == 0)
            for place, word in enumerate(outputs[row, pair])
            if valid[row, pair, place]
        ]
        parts.append(word2vec_pair(v, u, words, labelled))
    loss, d_v, d_u = add(parts)
    args = jnp.float32(v), jnp.float32(u)

    def total(v, u):
        return word_vectors.sampled(v, u, *arrays, chunk_size=3 * (1 + K))

    value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(*args)
    np.testing.assert_allclose(value, loss, rtol=1e-5)
    np.testing.assert_allclose(gradients[0], d_v, atol=2e-5)
    np.testing.assert_allclose(gradients[1], d_u, atol=2e-5)
    np.testing.assert_allclose(jax.jit(total)(*args), loss, rtol=1e-5)  # without gradients


def block(seed=2, s=7, t=3, k=4):
    rng = np.random.default_rng(seed)
    pairs = rng.random((s, t)) < 0.5
    pairs[:, 1] = False  # a target without context
    inputs, targets, negatives = (rng.integers(0, V, count) for count in (s, t, k))
    negatives[0] = targets[0]
    return pairs, inputs, targets, negatives


@pytest.mark.parametrize("cbow", [False, True], ids=["skip_gram", "cbow"])
def test_shared_negatives_are_the_mean_over_negatives_that_are_drawn_one_by_one(cbow):
    v, u = tables()
    pairs, inputs, targets, negatives = block()
    weight = 5 / 4

    def outputs(centre):
        yield centre, 1, 1.0
        yield from ((x, 0, weight) for x in negatives if x != centre)

    loss, d_v, d_u = 0.0, np.zeros_like(v), np.zeros_like(u)
    for t, centre in enumerate(targets):
        context = list(np.flatnonzero(pairs[:, t]))
        for places in [context] if cbow and context else [[place] for place in context]:
            for word, label, share in outputs(centre):
                part = word2vec_pair(v, u, inputs[places], [(word, label)])
                loss += share * part[0]
                d_v += share * part[1]
                d_u += share * part[2]

    def total(v, u):
        words = jnp.concatenate([targets, negatives])
        equal = targets[:, None] == negatives
        return word_vectors.shared_negatives(
            v[inputs][None], u[words][None], pairs[None], equal[None], weight=weight, cbow=cbow
        ).sum()

    grad = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))
    value, gradients = grad(jnp.float32(v), jnp.float32(u))
    np.testing.assert_allclose(value, loss, rtol=1e-5)
    np.testing.assert_allclose(gradients[0], d_v, atol=2e-5)
    np.testing.assert_allclose(gradients[1], d_u, atol=2e-5)


@pytest.mark.parametrize("cbow", [False, True], ids=["skip_gram", "cbow"])
def test_softmax_is_the_negative_log_likelihood_of_each_pair(cbow):
    v, u = tables()
    pairs, inputs, targets, _ = block()
    loss = 0.0
    for t, centre in enumerate(targets):
        context = list(np.flatnonzero(pairs[:, t]))
        for places in [context] if cbow and context else [[place] for place in context]:
            logits = u @ np.mean(v[inputs[places]], axis=0)
            loss += np.log(np.sum(np.exp(logits))) - logits[centre]
    value = word_vectors.word_softmax(
        jnp.float32(v)[inputs][None], targets[None], jnp.float32(u), pairs[None], cbow=cbow
    )
    np.testing.assert_allclose(value, [loss], rtol=1e-5)


def test_at_first_a_pair_costs_log_2_for_each_output():
    """Output vectors are 0 at first."""
    valid = jnp.ones((1, 1 + K), bool)
    losses = word_vectors.negative_sampling(
        jnp.ones((1, 1, D)), jnp.ones((1, 1), bool), jnp.zeros((1, 1 + K, D)), valid
    )
    np.testing.assert_allclose(losses, (1 + K) * np.log(2), rtol=1e-6)


def test_scaled_row_gradients_leave_the_table():
    table, factor = jnp.ones((3, 2)), jnp.array([0.0, 1.0, 0.25])
    value, grad = jax.value_and_grad(
        lambda x: jnp.sum(word_vectors.scale_row_gradients(x, factor) ** 2)
    )(table)
    np.testing.assert_array_equal(value, 6.0)
    np.testing.assert_array_equal(grad, 2 * factor[:, None] * table)


@pytest.mark.slow
def test_devices_together_give_the_sampled_loss_of_one():
    arrays = lists(3, 8, 5, 1)
    args = tuple(jnp.float32(x) for x in tables())

    def total(v, u):
        return word_vectors.sampled(v, u, *arrays, chunk_size=8)

    alone = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(*args)
    with jax.set_mesh(parallel.make_mesh()):
        together = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(*args)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), alone, together)
