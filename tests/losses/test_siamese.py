"""BYOL's and SimSiam's losses against a float64 oracle, and where their gradients go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import parallel
from ssl_jax.losses import byol, simsiam

LOSSES = {"byol": byol, "simsiam": simsiam}


def pair(n=16, d=8, seed=0):
    rng = np.random.default_rng(seed)
    p, t = rng.normal(size=(2, n, 2, d))
    return p.astype(np.float32), (t + 0.5 * p).astype(np.float32)


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def oracle(name, p, t):
    """Image by image, in float64."""
    p, t = np.asarray(p, np.float64), np.asarray(t, np.float64)
    total = 0.0
    for (p1, p2), (t1, t2) in zip(p, t, strict=True):
        if name == "byol":
            for a, b in ((p1, t2), (p2, t1)):
                total += np.sum((a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2)
        else:
            total += -0.5 * cosine(p1, t2) - 0.5 * cosine(p2, t1)
    return total / len(p)


@pytest.mark.parametrize("name", LOSSES)
def test_value_matches_the_oracle(name):
    p, t = pair()
    np.testing.assert_allclose(LOSSES[name](p, t), oracle(name, p, t), rtol=2e-6)
    low = LOSSES[name](jnp.asarray(p, jnp.bfloat16), jnp.asarray(t, jnp.bfloat16))
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, oracle(name, p, t), atol=3e-2)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_matches_finite_differences_of_the_oracle(name):
    p, t = pair(n=3, d=4)
    got = jax.grad(LOSSES[name])(p, t)
    expected = np.zeros(p.shape)
    for index in np.ndindex(p.shape):
        values = []
        for sign in (1, -1):
            moved = p.astype(np.float64)
            moved[index] += sign * 1e-5
            values.append(oracle(name, moved, t))
        expected[index] = (values[0] - values[1]) / 2e-5
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_ends_of_the_ranges():
    p, _ = pair()
    across = p[:, ::-1]  # each view's prediction is the other's target
    np.testing.assert_allclose(byol(p, 3 * across), 0, atol=1e-6)
    np.testing.assert_allclose(byol(p, -across), 8, rtol=1e-6)
    np.testing.assert_allclose(simsiam(p, 3 * across), -1, rtol=1e-6)
    np.testing.assert_allclose(simsiam(p, -across), 1, rtol=1e-6)
    np.testing.assert_allclose(byol(p, 1 + across), 4 + 4 * simsiam(p, 1 + across), atol=1e-5)


def test_views_are_compared_across_and_not_with_themselves():
    p = np.zeros((1, 2, 2), np.float32)
    p[0, 0, 0] = p[0, 1, 1] = 1  # orthogonal views
    np.testing.assert_allclose(byol(p, p), 4, rtol=1e-6)
    np.testing.assert_allclose(simsiam(p, p), 0, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_no_gradient_reaches_the_targets(name):
    p, t = pair()
    np.testing.assert_array_equal(jax.grad(LOSSES[name], argnums=1)(p, t), np.zeros_like(t))


def test_without_the_stop_gradient_both_sides_move():
    """The loss is symmetric then, so the targets' gradient is that of the swapped call."""
    p, t = pair()
    free = jax.grad(lambda p, t: simsiam(p, t, stop_gradient=False), argnums=(0, 1))(p, t)
    np.testing.assert_allclose(free[0], jax.grad(simsiam)(p, t), atol=1e-7)
    np.testing.assert_allclose(free[1], jax.grad(simsiam)(t, p), atol=1e-7)
    assert np.abs(free[1]).max() > 1e-3


@pytest.mark.parametrize("name", LOSSES)
def test_zero_vectors_have_a_finite_gradient(name):
    p, t = pair()
    p[3] = 0
    t[5] = 0
    value, grad = jax.value_and_grad(LOSSES[name])(p, t)
    assert np.isfinite(value) and np.isfinite(grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_eight_devices_equal_one_in_value_and_gradient(name):
    p, t = pair(n=32)
    f = jax.value_and_grad(LOSSES[name])
    loss, grad = jax.jit(f)(p, t)
    for sizes in ({"data": 8}, {"data": 2, "fsdp": 4}):
        mesh = parallel.make_mesh(**sizes)
        rows = NamedSharding(mesh, P(("data", "fsdp")))
        with jax.set_mesh(mesh):
            loss8, grad8 = jax.jit(f, out_shardings=(None, rows))(*jax.device_put((p, t), rows))
        np.testing.assert_allclose(loss8, loss, rtol=1e-5)
        np.testing.assert_allclose(grad8, grad, atol=1e-7)


@pytest.mark.wrong_shapes
@pytest.mark.parametrize("name", LOSSES)
def test_bad_shapes_are_named(name):
    p, t = pair()
    with pytest.raises(ValueError, match=r"\[n 2 d\].*\(16, 2, 8\).*\(8, 2, 8\)"):
        LOSSES[name](p, t[:8])
    with pytest.raises(ValueError, match=r"\(16, 8\)"):
        LOSSES[name](p[:, 0], t[:, 0])
