"""The bridge from Linen modules to pure functions."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ssl_jax.models import Net, count_parameters


class Noisy(nn.Module):
    """Dropout over a normalised dense layer: every kind of state a net can have."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        x = nn.Dense(4, name="dense")(x)
        return nn.Dropout(0.5, deterministic=not train)(x)


class Plain(nn.Module):
    """A net without buffers."""

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(4, name="dense")(x) * (2 if train else 1)


X = np.random.default_rng(0).normal(3.0, 2.0, size=(16, 5)).astype(np.float32)


def test_init_splits_params_from_buffers():
    params, buffers = Net(Noisy()).init(jax.random.key(0), X)
    assert jax.tree.map(jnp.shape, params) == {
        "norm": {"bias": (5,), "scale": (5,)},
        "dense": {"bias": (4,), "kernel": (5, 4)},
    }
    assert jax.tree.map(jnp.shape, buffers) == {
        "batch_stats": {"norm": {"mean": (5,), "var": (5,)}}
    }
    assert type(params) is dict and type(buffers) is dict


def test_init_reads_shapes_only():
    net, key = Net(Noisy()), jax.random.key(1)
    from_values = net.init(key, X)
    from_shapes = net.init(key, jax.ShapeDtypeStruct(X.shape, X.dtype))
    chex.assert_trees_all_equal(from_values, from_shapes)
    abstract = jax.eval_shape(net.init, key, X)
    assert jax.tree.map(jnp.shape, abstract) == jax.tree.map(jnp.shape, from_values)


def test_running_statistics_move_by_a_tenth():
    net = Net(Noisy())
    params, buffers = net.init(jax.random.key(0), X)
    key = jax.random.key(2)
    _, updated = net.apply(params, buffers, X, train=True, key=key)
    mean, var = X.astype(np.float64).mean(0), X.astype(np.float64).var(0)
    stats = updated["batch_stats"]["norm"]
    np.testing.assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * var, rtol=1e-5)
    chex.assert_trees_all_equal_structs(updated, buffers)


def test_evaluation_returns_the_buffers_it_was_given():
    net = Net(Noisy())
    params, buffers = net.init(jax.random.key(0), X)

    @jax.jit
    def evaluate(params, buffers):
        y, same = net.apply(params, buffers, X, train=False)
        assert same is buffers
        return y

    y = evaluate(params, buffers)
    dense = params["dense"]
    x = X / np.sqrt(1 + 1e-5)  # fresh running statistics: mean 0, variance 1
    np.testing.assert_allclose(y, x @ dense["kernel"] + dense["bias"], rtol=1e-5, atol=1e-5)


def test_key_feeds_dropout():
    net = Net(Noisy())
    params, buffers = net.init(jax.random.key(0), X)

    def dropped(seed):
        return net.apply(params, buffers, X, train=True, key=jax.random.key(seed))[0]

    assert 0.2 < np.mean(dropped(0) == 0) < 0.8
    np.testing.assert_array_equal(dropped(0), dropped(0))
    assert np.any(dropped(0) != dropped(1))
    with pytest.raises(Exception, match="dropout"):
        net.apply(params, buffers, X, train=True)


def test_net_without_buffers():
    net = Net(Plain())
    params, buffers = net.init(jax.random.key(0), X)
    assert buffers == {}
    trained, after = net.apply(params, buffers, X, train=True)
    evaluated, _ = net.apply(params, buffers, X, train=False)
    assert after == {}
    np.testing.assert_array_equal(trained, 2 * evaluated)


def test_net_is_hashable_and_compared_by_value():
    assert Net(Noisy()) == Net(Noisy()) and hash(Net(Noisy())) == hash(Net(Noisy()))
    assert Net(Noisy()) != Net(Plain())


def test_count_parameters():
    params, _ = jax.eval_shape(Net(Noisy()).init, jax.random.key(0), X)
    assert count_parameters(params) == 5 * 2 + 5 * 4 + 4
