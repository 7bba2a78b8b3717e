"""NNCLR's own facts: its step and queue."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.models import count_parameters
from tests.methods import paper_scale
from tests.methods.contract import encode, loss_and_aux, views_of
from tests.methods.test_methods import build


@pytest.fixture(scope="module")
def step():
    """The method, its weights, its encoded views, and the loss of a step."""
    experiment, source = build("nnclr")
    method, w = experiment.method, experiment.init_state().weights
    views = views_of(method, jax.random.split(jax.random.key(0), 16), source.batch(range(16)))
    encode_key, _ = jax.random.split(jax.random.key(1))
    encoded, _ = encode(method, w, views, key=encode_key)
    loss, aux = jax.jit(functools.partial(loss_and_aux, method))(
        w, views, key=jax.random.key(1), step=jnp.int32(0)
    )
    return w, encoded, loss, aux


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_a_step_is_the_papers_equations(step):
    """Neighbours of one view are told from the batch by predictions of the other, in float64."""
    w, encoded, loss, aux = step
    z, p, queue = unit(encoded["z"]), unit(encoded["p"]), unit(w.buffers["queue"])
    terms, similarity = [], []
    for view in (0, 1):
        scores = z[:, view] @ queue.T
        nearest = queue[scores.argmax(axis=1)]
        similarity.append(scores.max(axis=1).mean())
        logits = nearest @ p[:, 1 - view].T / 0.1
        terms.append(np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)))
    np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["nearest_similarity"], np.mean(similarity), rtol=1e-4)


def test_the_queue_takes_the_first_view_in_place_of_the_oldest(step):
    w, encoded, _, aux = step
    np.testing.assert_allclose(aux.buffers["queue"][:16], unit(encoded["z"])[:, 0], atol=1e-5)
    np.testing.assert_array_equal(aux.buffers["queue"][16:], w.buffers["queue"][16:])
    assert aux.buffers["pointer"] == 16


def test_the_heads_and_the_queue_are_the_papers():
    experiment = paper_scale.build("nnclr.py:imagenet")
    state = experiment.abstract_state
    assert state.buffers["queue"].shape == (98304, 256)
    dims, norms = (2049 * 2048, 2049 * 2048, 2049 * 256), 2 * (2048 + 2048 + 256)
    assert count_parameters(state.params["projector"]) == sum(dims) + norms
    assert count_parameters(state.params["predictor"]) == 257 * 4096 + 2 * 4096 + 4097 * 256


def test_a_queue_that_takes_no_whole_batches_is_refused():
    with pytest.raises(UserError, match="method.queue_length 40 must be a multiple"):
        build("nnclr", method__queue_length=40)
