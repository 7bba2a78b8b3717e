"""The small net: its two ways to convolve, an oracle, and BatchNorm over a sharded batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding

from ssl_jax.core.errors import UserError
from ssl_jax.models import make_encoder
from ssl_jax.models.convnet import LARGEST_PATCH_MAP, conv3x3


def conv(x, kernel, stride):
    """3x3 convolution padded by one, in float64."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, cols = range(0, x.shape[1] - 2, stride), range(0, x.shape[2] - 2, stride)
    y = np.empty((x.shape[0], len(rows), len(cols), kernel.shape[-1]))
    for a, i in enumerate(rows):
        for b, j in enumerate(cols):
            y[:, a, b] = np.einsum("nhwc,hwcd->nd", x[:, i : i + 3, j : j + 3], kernel)
    return y


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("side", [1, 3, LARGEST_PATCH_MAP + 1, 4 * LARGEST_PATCH_MAP])
def test_conv3x3_matches_the_oracle(side, stride):
    """Both ways, odd and even sides, values and gradients (which are linear, so exact)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, side, side + 1, 3)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 3, 4)).astype(np.float32)
    expected = conv(x, kernel, stride)
    cotangent = rng.normal(size=expected.shape).astype(np.float32)

    @jax.jit
    def run(x, kernel):
        y, vjp = jax.vjp(lambda x, kernel: conv3x3(x, kernel, stride), x, kernel)
        return y, *vjp(cotangent)

    y, dx, dkernel = run(x, kernel)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    # <cotangent, conv(u, k)> is linear in u and in k: the gradient's product with any u or k.
    u, k = rng.normal(size=x.shape), rng.normal(size=kernel.shape)
    np.testing.assert_allclose(np.sum(dx * u), np.sum(cotangent * conv(u, kernel, stride)), 1e-4)
    np.testing.assert_allclose(np.sum(dkernel * k), np.sum(cotangent * conv(x, k, stride)), 1e-4)


def test_patches_are_for_small_maps_on_cpus_only():
    def text(side, platform):
        x, kernel = jnp.zeros((2, side, side, 3)), jnp.zeros((3, 3, 3, 4))
        traced = jax.jit(lambda x, kernel: conv3x3(x, kernel, 1)).trace(x, kernel)
        return traced.lower(lowering_platforms=(platform,)).as_text()

    small, large = LARGEST_PATCH_MAP, LARGEST_PATCH_MAP + 1
    assert "stablehlo.convolution" not in text(small, "cpu")
    assert "stablehlo.convolution" in text(small, "tpu")
    assert "stablehlo.convolution" in text(large, "cpu")


def train(net):
    return jax.jit(lambda params, buffers, x: net.apply(params, buffers, x, train=True))


def test_net_matches_the_oracle():
    net = make_encoder("convnet", widths=(4, 6), strides=(2, 1))
    x = np.random.default_rng(0).uniform(size=(5, 8, 8, 1)).astype(np.float32)
    params, buffers = jax.jit(net.init)(jax.random.key(1), x)
    (h, out), _ = train(net)(params, buffers, x)
    y = np.asarray(x, np.float64)
    for name, stride in (("stage1", 2), ("stage2", 1)):
        y = conv(y, np.asarray(params[name]["kernel"], np.float64), stride)
        y = np.maximum((y - y.mean((0, 1, 2))) / np.sqrt(y.var((0, 1, 2)) + 1e-5), 0)
        np.testing.assert_allclose(out[name], y, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(h, y.mean((1, 2)), rtol=1e-4, atol=1e-4)
    assert h.dtype == jnp.float32


def test_statistics_are_float32_in_bfloat16():
    """16,384 values of mean 10: their sum in bfloat16 would stop growing at 2,048."""
    net = make_encoder("convnet", widths=(1,), strides=(1,), dtype="bfloat16")
    x = np.random.default_rng(0).normal(10, 1, size=(64, 16, 16, 1)).astype(jnp.bfloat16)
    params, buffers = jax.jit(net.init)(jax.random.key(1), x)
    identity = np.zeros((3, 3, 1, 1), np.float32)
    identity[1, 1] = 1
    params["stage1"]["kernel"] = identity
    _, buffers = train(net)(params, buffers, x)
    stats = buffers["batch_stats"]["stage1"]["norm"]
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(stats["mean"], 0.1 * exact.mean(), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * exact.var(), rtol=1e-4)


def test_batch_norm_is_global_over_eight_devices():
    """Value, gradient and running statistics as on one device, though the shards differ."""
    net = make_encoder("convnet", widths=(4, 8), strides=(2, 2))
    rng = np.random.default_rng(0)
    shift = np.repeat(np.arange(8.0), 2)[:, None, None, None]
    x = jnp.asarray(rng.normal(size=(16, 8, 8, 1)) * (1 + shift) + shift, jnp.float32)
    params, buffers = jax.jit(net.init)(jax.random.key(1), x)
    target = rng.normal(size=(16, 8)).astype(np.float32)

    @jax.jit
    def run(params, x):
        def loss(params):
            (h, _), after = net.apply(params, buffers, x, train=True)
            return jnp.mean((h - target) ** 2), after

        return jax.value_and_grad(loss, has_aux=True)(params)

    def assert_close(a, b):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)

    assert jax.device_count() == 8
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(x, NamedSharding(mesh, jax.P("data")))
    replicated = jax.device_put(params, NamedSharding(mesh, jax.P()))
    one, eight = run(params, x), run(replicated, sharded)
    jax.tree.map(assert_close, one, eight)

    # Statistics of a shard alone would be something else.
    (_, local), _ = run(params, jnp.tile(x[:2], (8, 1, 1, 1)))
    mean = one[0][1]["batch_stats"]["stage1"]["norm"]["mean"]
    assert np.abs(mean - local["batch_stats"]["stage1"]["norm"]["mean"]).max() > 1e-2


def test_options_may_be_lists_and_must_fit():
    assert make_encoder("convnet", widths=[8, 8], strides=[2, 1]) == make_encoder(
        "convnet", widths=(8, 8), strides=(2, 1)
    )
    assert make_encoder("convnet", widths=(8, 8)).module.strides == (2, 2)
    with pytest.raises(UserError, match="a stride for each width"):
        make_encoder("convnet", widths=(8, 8, 8), strides=(2, 2))
    with pytest.raises(UserError, match=r"model.strides is \(0,\); use a tuple, each item a whole"):
        make_encoder("convnet", widths=(8,), strides=(0,))


def test_layer_norm_takes_the_statistics_of_each_image():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(3, 6, 6, 2)).astype(np.float32)
    for norm in ("layer", "none"):
        net = make_encoder("convnet", widths=(4,), strides=(2,), norm=norm)
        params, buffers = net.init(jax.random.key(0), x)
        assert not jax.tree.leaves(buffers)
        (h, _), _ = train(net)(params, buffers, x)
        y = conv(x, params["stage1"]["kernel"], 2)
        if norm == "layer":
            mean, variance = y.mean((1, 2, 3), keepdims=True), y.var((1, 2, 3), keepdims=True)
            y = (y - mean) / np.sqrt(variance + 1e-5)
        np.testing.assert_allclose(h, np.maximum(y, 0).mean((1, 2)), rtol=1e-4, atol=1e-6)
