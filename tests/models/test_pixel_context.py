"""CPC's masked convolutions: an oracle in loops, what a context sees, published sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.models import count_parameters, make_context


@pytest.fixture(scope="module")
def tiny():
    net = make_context("pixel_context", steps=(1, 3), depth=2, dim=6, target_dim=4, scale=0.1)
    z = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype(np.float32)
    params, _ = net.init(jax.random.key(0), z)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: p + 0.2 * rng.normal(size=p.shape).astype(np.float32), params)
    return net, params, z


def dense(x, p):
    return x @ np.asarray(p["kernel"], np.float64)[0, 0] + np.asarray(p["bias"])


def test_contexts_predictions_and_targets_are_those_of_loops(tiny):
    net, params, z = tiny
    (context, predictions, targets), _ = net.apply(params, {}, z, train=True)
    c = z.astype(np.float64)
    n, rows, columns, _ = z.shape
    for i in (1, 2):
        conv = [params[f"block{i}_conv{j}"] for j in (1, 2, 3, 4)]
        y = np.maximum(dense(c, conv[0]), 0)
        row_kernel, column_kernel = (np.asarray(conv[j]["kernel"], np.float64) for j in (1, 2))
        across, down = np.zeros((2, n, rows, columns, 6))
        for r, col in np.ndindex(rows, columns):
            for shift in (-1, 0, 1):
                if 0 <= col + shift < columns:
                    across[:, r, col] += y[:, r, col + shift] @ row_kernel[0, shift + 1]
        across += np.asarray(conv[1]["bias"])
        for r in range(rows):
            down[:, r] = across[:, r] @ column_kernel[1, 0] + np.asarray(conv[2]["bias"])
            if r:
                down[:, r] += across[:, r - 1] @ column_kernel[0, 0]
        c = c + dense(np.maximum(down, 0), conv[3])
    c = np.maximum(c, 0)
    np.testing.assert_allclose(context, c, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(targets, dense(z, params["target"]), rtol=1e-4, atol=1e-5)
    for k in (1, 3):
        expected = 0.1 * dense(c[:, : rows - k], params[f"predict{k}"])
        np.testing.assert_allclose(predictions[k], expected, rtol=1e-4, atol=1e-5)


def test_no_context_depends_on_a_row_below(tiny):
    """Gradients are exactly 0 below, and not 0 in the row itself and the one above."""
    net, params, z = tiny

    def row(z, i):
        return jnp.sum(jnp.sin(net.apply(params, {}, z, train=True)[0][0][:, i]))

    gradient = jax.jit(jax.grad(row), static_argnums=1)
    for i in range(5):
        by_row = np.abs(gradient(z, i)).sum((0, 2, 3))
        assert np.all(by_row[i + 1 :] == 0)
        assert np.all(by_row[max(0, i - 1) : i + 1] > 0)


def test_without_a_target_layer_targets_are_the_latents():
    net = make_context("pixel_context", steps=(1,), depth=1, dim=4)
    z = np.random.default_rng(0).normal(size=(1, 3, 3, 5)).astype(np.float32)
    params, _ = net.init(jax.random.key(0), z)
    (_, predictions, targets), _ = net.apply(params, {}, z, train=True)
    np.testing.assert_array_equal(targets, z)
    assert predictions[1].shape == (1, 2, 3, 5) and "target" not in params


def test_the_size_of_the_published_net():
    """Five blocks of width 256 on 4096 numbers, and two layers of 64 (CPC v2, App. A)."""
    net = make_context("pixel_context", steps=(3,), target_dim=64)
    z = jax.ShapeDtypeStruct((1, 6, 6, 4096), jnp.float32)
    params, _ = jax.eval_shape(net.init, jax.random.key(0), z)
    block = 4096 * 256 + 3 * 256**2 + 2 * 256**2 + 256 * 4096 + 3 * 256 + 4096
    assert count_parameters(params) == 5 * block + 2 * (4096 * 64 + 64)
