"""Attention maps: the weights with which the class token's output is computed."""

import jax
import numpy as np
import pytest
from scipy.special import erf

from ssl_jax.core.tree_paths import by_path, replace
from ssl_jax.models import Net, vit
from ssl_jax.models.attention_maps import attention_maps, class_attention, has_attention_maps
from ssl_jax.models.layers import restack
from tests.models.test_vit import IMAGES, TINY, apply, drawn, tiny


def norm(x, p):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


jitted = jax.jit(attention_maps, static_argnums=0)


def last_class_token(tokens, weights, p):
    """The last layer's output at the class token, given its attention weights; float64."""
    n, t, d = tokens.shape
    heads = weights.shape[1]
    value = dense(norm(tokens, p["norm1"]), p["attn"]["qkv"])[..., 2 * d :]
    mixed = np.einsum("nht,nthd->nhd", weights, value.reshape(n, t, heads, d // heads))
    x = tokens[:, 0] + dense(mixed.reshape(n, d), p["attn"]["proj"])
    hidden = dense(norm(x, p["norm2"]), p["mlp"]["fc1"])
    return x + dense(hidden * (1 + erf(hidden / np.sqrt(2))) / 2, p["mlp"]["fc2"])


@pytest.mark.parametrize("registers", [0, 2])
def test_the_weights_make_the_output_of_the_last_layer(registers):
    net = tiny(num_registers=registers)
    params = drawn(net)
    _, out = apply(net, params)
    weights = np.asarray(jax.jit(class_attention, static_argnums=0)(net, params, {}, IMAGES))
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    tokens = np.asarray(out["layer1"], np.float64)
    assert weights.shape == (3, 2, 1 + registers + 6)
    output = last_class_token(tokens, weights, jax.tree.map(np.float64, params["layer2"]))
    np.testing.assert_allclose(output, out["layer2"][:, 0], rtol=1e-4, atol=1e-5)
    maps = jitted(net, params, {}, IMAGES)
    patches = weights[..., 1 + registers :].reshape(3, 2, 3, 2)
    assert maps.shape == (3, 2, 12, 8)
    scale = patches.max((2, 3), keepdims=True)
    np.testing.assert_allclose(maps[:, :, 1::4, 2::4], patches / scale, rtol=1e-5)
    np.testing.assert_allclose(maps[:, :, 3::4, 3::4], patches / scale, rtol=1e-5)


def test_scanned_layers_give_the_same_maps():
    unrolled, scanned = tiny(), tiny(scan_layers=True)
    params = drawn(unrolled)
    shapes, _ = jax.eval_shape(scanned.init, jax.random.key(0), IMAGES)
    arrays = restack({k: np.asarray(v) for k, v in by_path(params).items()}, list(by_path(shapes)))
    np.testing.assert_allclose(
        jitted(scanned, replace(shapes, arrays), {}, IMAGES),
        jitted(unrolled, params, {}, IMAGES),
        rtol=1e-5,
    )


def test_nets_without_a_class_token_or_with_one_layer_have_none():
    assert has_attention_maps(tiny())
    assert not has_attention_maps(tiny(cls_token=False, pool="mean"))
    assert not has_attention_maps(Net(vit(**{**TINY, "depth": 1})))
