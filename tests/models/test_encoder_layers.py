"""The outputs of an encoder's layers equal what the net computes, and cost nothing unless asked."""

import jax
import numpy as np
import pytest

from ssl_jax.core.layer_outputs import select
from ssl_jax.models import Net, make_encoder
from ssl_jax.models.encoder_layers import encoder_layers

TINY = dict(name="vit_ti16", patch_size=4, dim=8, depth=2, num_heads=2)


def encoded(model, x):
    """(h, layers, params) of random weights."""
    net = make_encoder(**model)
    params, buffers = jax.eval_shape(net.init, jax.random.key(0), x)
    rng = np.random.default_rng(1)
    # Scales and biases that differ, so that a missing LayerNorm shows.
    params = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32) / 2, params)
    buffers = jax.tree.map(lambda p: rng.uniform(1, 2, p.shape).astype(np.float32), buffers)

    @jax.jit
    def run(params, buffers):
        (h, out), _ = net.apply(params, buffers, x, train=False)
        return h, out, encoder_layers(net, params, buffers, x)

    return *jax.device_get(run(params, buffers)), params


def norm(x, params):
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * params["scale"] + params["bias"]


@pytest.mark.parametrize("cls_token", [True, False])
def test_every_block_of_a_vit_after_the_last_norm(cls_token):
    pool = "cls" if cls_token else "mean"
    x = np.random.default_rng(0).normal(size=(2, 8, 12, 1)).astype(np.float32)
    h, out, layers, params = encoded({**TINY, "cls_token": cls_token, "pool": pool}, x)
    assert set(layers) == {"layer1", "layer2"}
    for name, layer in layers.items():
        tokens = norm(out[name].astype(np.float64), params["norm"])
        np.testing.assert_allclose(layer.patches, tokens[:, int(cls_token) :], atol=1e-4)
        if cls_token:
            np.testing.assert_allclose(layer.cls, tokens[:, 0], atol=1e-4)
        else:
            assert layer.cls is None
    np.testing.assert_allclose(layers["layer2"].patches, out["patch_tokens"], atol=1e-5)
    np.testing.assert_allclose(select(layers, f"last1/{pool}"), h, atol=1e-5)


def test_stages_of_a_convolutional_net():
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    h, out, layers, _ = encoded(dict(name="convnet", widths=(4, 6)), x)
    assert set(layers) == {"stage1", "stage2"}
    np.testing.assert_array_equal(layers["stage1"].patches, out["stage1"].reshape(2, 16, 4))
    np.testing.assert_allclose(select(layers, "last1/mean"), h, atol=1e-6)


def test_layers_that_are_not_asked_for_are_not_computed():
    net = make_encoder(**{**TINY, "depth": 3})
    x = jax.ShapeDtypeStruct((2, 8, 8, 1), "float32")
    params, buffers = jax.eval_shape(net.init, jax.random.key(0), x)

    def flops(name):
        def output(params, buffers, x):
            return select(encoder_layers(net, params, buffers, x), name)

        return jax.jit(output).lower(params, buffers, x).compile().cost_analysis()["flops"]

    assert flops("layer1/cls") < 0.5 * flops("layer3/cls")


def test_nets_without_layers_have_none():
    net = make_encoder("mlp_encoder", widths=(4,))
    x = np.zeros((1, 4, 4, 1), np.float32)
    assert isinstance(net, Net)
    assert encoder_layers(net, *net.init(jax.random.key(0), x), x) == {}
