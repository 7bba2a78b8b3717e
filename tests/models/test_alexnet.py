"""AlexNet, NIN and fully connected layers: oracles of their parts, sizes and parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.models import Net, count_parameters, make_encoder
from ssl_jax.models.alexnet import local_response_norm, max_pool_ceil
from ssl_jax.models.fully_connected import FullyConnected
from ssl_jax.models.stages import last_map

CAFFENET = dict(name="alexnet", widths=(96, 256, 384, 384, 256))
JIGSAW = dict(CAFFENET, norm="lrn", groups=2, conv1_stride=2, conv1_padding=0)


def shapes(options, side):
    """Number of parameters, and the shapes of the outputs for one image."""
    net = make_encoder(**options)
    x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    (params, _), (_, out) = jax.eval_shape(
        lambda key, x: (net.init(key, x), net.apply(*net.init(key, x), x, train=False)[0]),
        jax.random.key(0),
        x,
    )
    return count_parameters(params), {name: y.shape[1:] for name, y in out.items()}


@pytest.mark.parametrize(
    ("options", "side", "count", "side_of_map"),
    [
        # Krizhevsky et al. 2012, without fc6 to fc8.
        (
            dict(CAFFENET, norm="lrn", groups=2, conv1_padding=0),
            227,
            60_965_224 - (9216 * 4096 + 4096) - (4096 * 4096 + 4096) - (4096 * 1000 + 1000),
            6,
        ),
        (JIGSAW, 64, 2_334_080, 3),
        (
            dict(CAFFENET, norm="lrn_batch", conv1_padding=5),  # no bias before BatchNorm
            96,
            34_944 + 614_656 + 9 * (384 * 256 + 384 * 384 + 256 * 384),
            3,
        ),
        (dict(name="alexnet"), 224, 2_468_544 + 2 * (64 + 192 + 384 + 256 + 256), 6),
    ],
)  # fmt: skip
def test_parameters_and_the_last_map_are_the_papers(options, side, count, side_of_map):
    parameters, out = shapes(options, side)
    assert parameters == count
    assert out["map"] == (side_of_map, side_of_map, 256)
    assert out["h"] == (256,)


def test_the_supervised_net_has_the_papers_parameters():
    """60,965,224 with a classifier of 1000 classes."""
    options = dict(CAFFENET, norm="lrn", groups=2, fully_connected=(4096, 4096), dropout=0.5)
    parameters, out = shapes(options, 224)
    assert parameters + 4096 * 1000 + 1000 == 60_965_224
    assert out["h"] == (4096,) and out["map"] == (6, 6, 256)


def test_h_is_the_last_fully_connected_layer_and_dropout_is_of_training():
    net = make_encoder(
        name="alexnet", widths=(4,) * 5, norm="lrn", conv1_stride=2, fully_connected=(8, 6),
        dropout=0.5,
    )  # fmt: skip
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    params, buffers = net.init(jax.random.key(0), x)
    (h, out), _ = net.apply(params, buffers, x, train=False)
    y = np.asarray(out["map"]).reshape(2, -1)
    for name in ("dense1", "dense2"):
        layer = params["fc"][name]
        y = np.maximum(y @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]), 0)
    np.testing.assert_allclose(h, y, rtol=1e-4, atol=1e-5)
    (dropped, _), _ = net.apply(params, buffers, x, train=True, key=jax.random.key(1))
    assert np.any((np.asarray(dropped) == 0) & (y > 0))


def test_the_net_of_rotnet_has_three_to_five_blocks():
    """Convolutions without bias, and two numbers per channel of BatchNorm."""
    first = (3 * 25 * 192 + 192 * 160 + 160 * 96) + 2 * (192 + 160 + 96)
    second = (96 * 25 * 192 + 2 * 192**2) + 2 * 3 * 192
    further = (9 * 192**2 + 2 * 192**2) + 2 * 3 * 192
    for num_blocks in (3, 4, 5):
        count, out = shapes(dict(name="nin", num_blocks=num_blocks), 32)
        assert count == first + second + (num_blocks - 2) * further
        assert out["stage1"] == (16, 16, 96) and out["stage2"] == (8, 8, 192)
        assert out[f"stage{num_blocks}"] == (8, 8, 192) and f"stage{num_blocks + 1}" not in out


def test_local_response_norm_is_the_papers_equation():
    x = np.random.default_rng(0).normal(size=(2, 1, 2, 7)) * 30
    expected = np.empty_like(x)
    for i in range(7):
        window = x[..., max(0, i - 2) : i + 3]
        expected[..., i] = x[..., i] / (1 + 1e-4 / 5 * np.sum(window**2, axis=-1)) ** 0.75
    np.testing.assert_allclose(jax.jit(local_response_norm)(x), expected, rtol=1e-5)


def test_the_last_window_of_a_pooling_may_reach_over_the_edge():
    x = np.random.default_rng(0).normal(size=(1, 6, 7, 1)).astype(np.float32)
    pooled = jax.jit(max_pool_ceil)(x)
    assert pooled.shape == (1, 3, 3, 1)
    for i in range(3):
        for j in range(3):
            window = x[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, 0]
            np.testing.assert_array_equal(pooled[0, i, j, 0], window.max())


@pytest.mark.parametrize(
    ("options", "side", "message"),
    [
        (dict(name="alexnet"), 32, "32x32 pixels are too small for alexnet; .*conv1_stride=2"),
        (dict(name="alexnet", widths=(3, 5, 4, 4, 4), groups=2), 64, "groups=2 does not divide"),
        (dict(name="alexnet", conv1_stride=3), 64, "model.conv1_stride is 3; use one of 2, 4"),
        (dict(name="nin", num_blocks=6), 32, "model.num_blocks is 6; use .* 3 .*5"),
    ],
)
def test_what_does_not_fit_is_named(options, side, message):
    with pytest.raises(UserError, match=message):
        shapes(options, side)


def test_fully_connected_layers_are_the_products_they_say():
    """BatchNorm on the first layer alone, in float64."""
    net = Net(FullyConnected((5, 4), 3, num_normalized=1, affine=False))
    x = np.random.default_rng(0).normal(size=(6, 2, 2, 3)).astype(np.float32)
    params, buffers = net.init(jax.random.key(0), x)
    assert set(params) == {"dense1", "dense2", "out"} and set(params["dense1"]) == {"kernel"}
    logits, _ = net.apply(params, buffers, x, train=True)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    y = x.reshape(6, -1).astype(np.float64) @ p["dense1"]["kernel"]
    y = np.maximum((y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5), 0)
    y = np.maximum(y @ p["dense2"]["kernel"] + p["dense2"]["bias"], 0)
    np.testing.assert_allclose(
        logits, y @ p["out"]["kernel"] + p["out"]["bias"], rtol=1e-3, atol=1e-6
    )


def test_the_last_map_is_that_of_the_last_stage():
    out = {"stem": 0, "stage2": 2, "stage10": 10, "stage9": 9}
    assert last_map(out) == 10
    assert last_map({**out, "map": 11}) == 11
    with pytest.raises(UserError, match="takes the feature map of a convolutional net"):
        last_map({"patch_tokens": 1})
