"""Losses of labelled texts against plain loops, and over eight devices against one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import parallel
from ssl_jax.losses.labels import (
    sigmoid_cross_entropy,
    span_cross_entropy,
    squared_error,
    tag_cross_entropy,
)

RNG = np.random.default_rng(0)
N, L, C = 16, 12, 5
PREDICTIONS = RNG.normal(size=N).astype(np.float32)
TARGETS = RNG.normal(size=N).astype(np.float32)
TARGETS[[0, 1, 2, 9]] = np.nan  # unevenly over two halves
LOGITS = (3 * RNG.normal(size=(N, L, C))).astype(np.float32)
TAGS = np.where(RNG.random((N, L)) < 0.4, RNG.integers(0, C, (N, L)), -1).astype(np.int32)
TAGS[3] = -1
ENDS = (3 * RNG.normal(size=(N, L, 2))).astype(np.float32)
ALLOWED = np.arange(L) >= RNG.integers(2, 6, (N, 1))
SPAN = np.sort(RNG.integers(6, L, (N, 2)), axis=1).astype(np.int32)
SPAN[[1, 5]] = 0  # no answer: at a token that is not otherwise allowed

SEVERAL = RNG.integers(-1, 2, (N, C)).astype(np.int32)
SEVERAL[2] = -1


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def of_numbers(predictions, targets):
    errors, weights = squared_error(predictions, targets)
    return errors.sum() / weights.sum()


def of_tags(logits, tags):
    sums = tag_cross_entropy(logits, tags)
    return sums["loss"].sum() / sums["count"].sum()


def of_spans(logits, span, allowed):
    return span_cross_entropy(logits, span, allowed)["loss"].mean()


def of_several(logits, labels):
    sums = sigmoid_cross_entropy(logits[:, 0], labels)
    return sums["loss"].sum() / sums["count"].sum()


CASES = {
    "several": (of_several, (LOGITS, SEVERAL)),
    "numbers": (of_numbers, (PREDICTIONS, TARGETS)),
    "tags": (of_tags, (LOGITS, TAGS)),
    "spans": (of_spans, (ENDS, SPAN, ALLOWED)),
}


def test_squared_error_of_what_has_a_target():
    errors, weights = squared_error(PREDICTIONS, TARGETS)
    for i in range(N):
        known = not np.isnan(TARGETS[i])
        expected = (float(PREDICTIONS[i]) - float(TARGETS[i])) ** 2 if known else 0
        np.testing.assert_allclose(errors[i], expected, rtol=1e-6)
        assert weights[i] == known
    grad = jax.grad(of_numbers)(PREDICTIONS, TARGETS)
    expected = np.where(np.isnan(TARGETS), 0, 2 * (PREDICTIONS - TARGETS) / 12)
    np.testing.assert_allclose(grad, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_tags_count_where_words_begin(dtype):
    logits = jnp.asarray(LOGITS, dtype)
    sums = tag_cross_entropy(logits, TAGS)
    exact = np.asarray(logits, np.float64)
    for i in range(N):
        places = [j for j in range(L) if TAGS[i, j] >= 0]
        losses = [-log_softmax(exact[i, j])[TAGS[i, j]] for j in places]
        hits = [exact[i, j].argmax() == TAGS[i, j] for j in places]
        assert sums["count"][i] == len(places)
        np.testing.assert_allclose(sums["loss"][i], sum(losses), rtol=1e-5, atol=1e-6)
        assert sums["hits"][i] == sum(hits)
    assert all(x.dtype == jnp.float32 for x in sums.values())
    grad = jax.grad(of_tags)(LOGITS, TAGS)
    np.testing.assert_array_equal(np.abs(grad).max(axis=2) > 0, TAGS >= 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_ends_of_an_answer_among_the_tokens_that_are_allowed(dtype):
    logits = jnp.asarray(ENDS, dtype)
    found = span_cross_entropy(logits, SPAN, ALLOWED)
    exact = np.asarray(logits, np.float64)
    for i in range(N):
        losses, hits = [], []
        for k in range(2):
            places = [j for j in range(L) if ALLOWED[i, j] or j == SPAN[i, k]]
            among = exact[i, places, k]
            losses.append(-log_softmax(among)[places.index(SPAN[i, k])])
            hits.append(places[among.argmax()] == SPAN[i, k])
        np.testing.assert_allclose(found["loss"][i], np.mean(losses), rtol=1e-5)
        assert found["hits"][i] == all(hits)
    grad = np.asarray(jax.grad(of_spans)(ENDS, SPAN, ALLOWED))
    assert np.isfinite(grad).all()
    elsewhere = ~ALLOWED[..., None] & (np.arange(L)[:, None] != SPAN[:, None])
    assert not grad[elsewhere].any() and grad[~elsewhere].all()


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_finite_differences(name):
    loss, (x, *rest) = CASES[name]
    with jax.enable_x64():
        x = np.asarray(x, np.float64)
        rest = [np.asarray(y, np.float64) if y.dtype == np.float32 else y for y in rest]
        direction = np.random.default_rng(1).normal(size=x.shape)
        grad = np.vdot(jax.grad(loss)(x, *rest), direction)
        step = 1e-5
        ahead, behind = (loss(x + s * direction, *rest) for s in (step, -step))
        np.testing.assert_allclose(grad, (ahead - behind) / (2 * step), rtol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_eight_devices_have_the_value_and_the_gradient_of_one(name):
    loss, arrays = CASES[name]
    measured = []
    for devices in (1, 8):
        mesh = parallel.make_mesh(devices=jax.devices()[:devices])
        with jax.set_mesh(mesh):
            placed = jax.device_put(arrays, parallel.batch_sharding(mesh))
            measured.append(jax.jit(jax.value_and_grad(loss))(*placed))
    (value, grad), (other, other_grad) = measured
    np.testing.assert_allclose(other, value, rtol=1e-6)
    np.testing.assert_allclose(other_grad, grad, rtol=1e-5, atol=1e-8)


@pytest.mark.wrong_shapes
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: squared_error(PREDICTIONS[:, None], TARGETS), r"takes two arrays \[n\]"),
        (lambda: tag_cross_entropy(LOGITS, TAGS[:, 1:]), r"logits \[n l c\] and tags \[n l\]"),
        (lambda: span_cross_entropy(LOGITS, SPAN, ALLOWED), r"takes logits \[n l 2\]"),
        (lambda: span_cross_entropy(ENDS, SPAN[:4], ALLOWED), r"span \[n 2\]"),
    ],
)
def test_shapes_that_do_not_fit_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_sigmoid_cross_entropy_of_known_labels():
    logits = LOGITS[:, 0]
    sums = jax.tree.map(np.asarray, sigmoid_cross_entropy(logits, SEVERAL))
    for i in range(N):
        loss = count = hits = 0
        for x, y in zip(logits[i].astype(np.float64), SEVERAL[i], strict=True):
            if y >= 0:
                p = 1 / (1 + np.exp(-x))
                loss -= np.log(p) if y else np.log(1 - p)
                hits += (x > 0) == (y == 1)
                count += 1
        np.testing.assert_allclose(sums["loss"][i], loss, rtol=1e-5)
        assert (sums["count"][i], sums["hits"][i]) == (count, hits)
    grad = jax.grad(lambda x: sigmoid_cross_entropy(x, SEVERAL)["loss"].sum())(logits)
    expected = np.where(SEVERAL < 0, 0, 1 / (1 + np.exp(-logits)) - SEVERAL)
    np.testing.assert_allclose(grad, expected, atol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e4, 1e30])
def test_sigmoid_cross_entropy_of_extreme_logits_is_finite(size):
    logits = size * np.sign(LOGITS[:, 0])
    value, grad = jax.value_and_grad(lambda x: sigmoid_cross_entropy(x, SEVERAL)["loss"].mean())(
        logits
    )
    assert np.isfinite(value) and np.isfinite(grad).all()
