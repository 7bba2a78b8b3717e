"""ResNets with pre-activation against published sizes and a float64 NumPy forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.models import count_parameters, make_encoder


@pytest.mark.parametrize(
    ("name", "options", "expected", "width"),
    [
        ("resnet_v2_50", dict(norm="layer"), 23_500_352, 2048),  # CPC v2: 24M
        ("resnet_v2_101", dict(norm="none", stages=3), 27_494_016, 1024),  # CPC: 28M
        pytest.param("resnet_v2_101", {}, 42_492_480, 2048, marks=pytest.mark.slow),
        pytest.param(
            "resnet_v2_161", dict(norm="layer"), 303_642_176, 4096, marks=pytest.mark.slow
        ),  # CPC v2: 305M
    ],
)
def test_parameter_counts(name, options, expected, width):
    def forward(key, x):
        net = make_encoder(name, **options)
        params, buffers = net.init(key, x)
        return params, net.apply(params, buffers, x, train=False)[0]

    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    params, (h, _) = jax.eval_shape(forward, jax.random.key(0), x)
    assert count_parameters(params) == expected and h.shape == (1, width)


def conv(x, p, stride=1):
    kernel = np.asarray(p["kernel"], np.float64)
    side = len(kernel)
    padding = side // 2
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = ((x.shape[axis] - side) // stride + 1 for axis in (1, 2))
    out = np.zeros((len(x), rows, columns, kernel.shape[3]))
    for i, j in np.ndindex(rows, columns):
        window = x[:, i * stride : i * stride + side, j * stride : j * stride + side]
        out[:, i, j] = np.einsum("nhwc,hwcd->nd", window, kernel)
    return out + np.asarray(p.get("bias", 0.0), np.float64)


def norm_relu(x, p):
    if p is not None:
        mean, variance = x.mean((1, 2, 3), keepdims=True), x.var((1, 2, 3), keepdims=True)
        x = (x - mean) / np.sqrt(variance + 1e-5) * np.asarray(p["scale"]) + np.asarray(p["bias"])
    return np.maximum(x, 0)


def block(x, p, stride):
    y = norm_relu(x, p.get("norm1"))
    shortcut = conv(y, p["shortcut"], stride) if "shortcut" in p else x
    y = norm_relu(conv(y, p["conv1"]), p.get("norm2"))
    y = norm_relu(conv(y, p["conv2"], stride), p.get("norm3"))
    return shortcut + conv(y, p["conv3"])


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_the_forward_pass_is_numpys(norm):
    net = make_encoder("resnet_v2_small", blocks=(2, 1), width=4, norm=norm, remat=norm == "layer")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 6, 6, 3)).astype(np.float32)
    params, buffers = net.init(jax.random.key(0), x)
    params = jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32), params)
    (h, out), _ = net.apply(params, buffers, x, train=True)
    y = conv(np.asarray(x, np.float64), params["stem"])
    for stage, blocks in params.items():
        if stage.startswith("stage"):
            for i, name in enumerate(blocks):
                y = block(y, blocks[name], 2 if stage == "stage2" and i == 0 else 1)
    np.testing.assert_allclose(out["stage2"], y, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(h, norm_relu(y, params.get("norm")).mean((1, 2)), rtol=1e-4)


def test_only_batchnorm_sees_the_other_images():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 8, 8, 3)).astype(np.float32)
    other = np.concatenate([x[:1], rng.normal(size=(3, 8, 8, 3)).astype(np.float32)])
    for norm, independent in (("layer", True), ("none", True), ("batch", False)):
        net = make_encoder("resnet_v2_small", blocks=(1,), width=4, norm=norm)
        params, buffers = net.init(jax.random.key(0), x)
        apply = jax.jit(
            lambda x, net=net, p=params, b=buffers: net.apply(p, b, x, train=True)[0][0]
        )
        assert np.array_equal(apply(x)[0], apply(other)[0]) == independent


def test_depth_does_not_change_the_scale_of_activations():
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
    scales = []
    for depth in (1, 16):
        net = make_encoder("resnet_v2_small", blocks=(depth,), width=8, norm="none")
        params, buffers = jax.jit(net.init)(jax.random.key(0), x)
        scales.append(float(jnp.std(net.apply(params, buffers, x, train=False)[0][1]["stage1"])))
    assert 0.3 < scales[1] / scales[0] < 3


def test_more_stages_than_there_are_are_refused():
    with pytest.raises(UserError, match="stages 4: resnet_v2_161 has 3 stages"):
        make_encoder("resnet_v2_161", stages=4)
