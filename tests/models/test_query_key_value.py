"""The layer of queries, keys and values: `nn.Dense` on one device, by heads on several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import hlo, parallel
from ssl_jax.adapt.lora import HyperParameters, Lora
from ssl_jax.models.query_key_value import QueryKeyValue

N, T, DIM, HEADS = 16, 32, 24, 4
X = jax.random.normal(jax.random.key(0), (N, T, DIM))
LORA = Lora(HyperParameters(rank=2, alpha=4.0), (), frozenset())


def parameters(use_bias=True, lora=False):
    layer = QueryKeyValue(3 * DIM, HEADS, use_bias=use_bias)
    params = jax.jit(layer.init)(jax.random.key(1), X)["params"]
    if use_bias:
        params["bias"] = jax.random.normal(jax.random.key(2), (3 * DIM,))
    if lora:
        a, b = (jax.random.normal(jax.random.key(i), s) for i, s in ((3, (DIM, 2)), (4, (2, DIM))))
        params["lora"] = {"query": {"a": a, "b": b}, "value": {"a": -a, "b": 2 * b}}
    return layer, params


def loss(layer, params, x):
    with LORA.active():
        y = layer.apply({"params": params}, x)
    return jnp.sum(jnp.sin(y)), y


@pytest.mark.parametrize("use_bias", [True, False])
def test_one_device_computes_a_dense_layer_bit_for_bit(use_bias):
    layer, params = parameters(use_bias)
    dense = nn.Dense(3 * DIM, use_bias=use_bias)
    same = jax.jit(dense.init)(jax.random.key(1), X)["params"]
    np.testing.assert_array_equal(params["kernel"], same["kernel"])
    y = jax.jit(layer.apply)({"params": params}, X)
    assert y.shape == (N, T, 3, HEADS, DIM // HEADS)
    expected = jax.jit(dense.apply)({"params": params}, X)
    np.testing.assert_array_equal(y, expected.reshape(y.shape))


@pytest.mark.parametrize("lora", [False, True])
def test_heads_over_devices_change_nothing_and_no_activation_is_sent(lora):
    layer, params = parameters(lora=lora)
    step = jax.value_and_grad(lambda p, x: loss(layer, p, x), argnums=(0, 1), has_aux=True)
    (value, y), grads = jax.jit(step)(params, X)
    mesh = parallel.make_mesh(data=2, fsdp=2, tensor=2)
    rows = NamedSharding(mesh, P(("data", "fsdp")))
    placed = jax.tree.map(lambda _: NamedSharding(mesh, P()), params)
    placed["kernel"] = NamedSharding(mesh, P("fsdp", "tensor"))
    with jax.set_mesh(mesh):
        split = jax.jit(step, in_shardings=(placed, rows), out_shardings=(None, (placed, rows)))
        program = split.lower(params, X).compile()
        (split_value, split_y), split_grads = program(
            jax.device_put(params, placed), jax.device_put(X, rows)
        )
    np.testing.assert_allclose(split_value, value, rtol=1e-5)
    np.testing.assert_allclose(split_y, y, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), split_grads, grads
    )
    # Each device computes half of the heads of its rows.
    assert split_y.sharding.shard_shape(y.shape) == (N // 4, T, 3, HEADS // 2, DIM // HEADS)
    outputs = N // 4 * T * 3 * DIM * 4  # bytes of a device's rows, all heads
    sent = [c for c in hlo.read(program).collectives if c.kind != "all-reduce"]
    assert sent and sum(c.bytes for c in sent) < outputs
