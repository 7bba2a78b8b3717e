"""ResNets against their published sizes and a float64 NumPy forward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ssl_jax.models import count_parameters, make_encoder, resnet
from ssl_jax.models import norm as norm_lib
from ssl_jax.models.functional import Net
from ssl_jax.models.resnet import BLOCKS_PER_STAGE, KERNEL_INITS, SelectiveKernel, _conv
from tests.marks import slow_unless

# What SimCLR v2 changes: selective kernels and ResNet-D.
V2 = dict(stem="deep", shortcut="pool", sk_ratio=0.0625)


def shapes(name, size=224, **options):
    """Abstract (params, h, out) for two RGB images; computes nothing."""
    net = make_encoder(name, **options)
    x = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)

    def forward(key, x):
        params, buffers = net.init(key, x)
        (h, out), _ = net.apply(params, buffers, x, train=True)
        return params, h, out

    return jax.eval_shape(forward, jax.random.key(0), x)


@pytest.mark.parametrize(
    ("name", "options", "classifier", "expected"),
    slow_unless(
        lambda value: value[0] in ("resnet18", "resnet50") and "width" not in value[1],
        [
            ("resnet50", {}, 0, 23_508_032),
            ("resnet50", {"width": 2}, 0, 93_907_072),
            ("resnet50", {"width": 4}, 0, 375_378_176),
            ("resnet50", {}, 2048 * 1000 + 1000, 25_557_032),
            ("resnet10", {}, 512 * 1000 + 1000, 5_418_792),
            ("resnet18", {}, 512 * 1000 + 1000, 11_689_512),
            ("resnet34", {}, 512 * 1000 + 1000, 21_797_672),
            ("resnet101", {}, 2048 * 1000 + 1000, 44_549_160),
            ("resnet152", {}, 2048 * 1000 + 1000, 60_192_808),
            ("resnet200", {}, 2048 * 1000 + 1000, 64_673_832),
            ("resnet18", {"stem": "cifar"}, 0, 11_168_832),
            ("resnet50", {"stem": "cifar"}, 0, 23_500_352),
        ],
    ),
)
def test_parameter_counts(name, options, classifier, expected):
    """With a classifier of 1000 classes where the published count has one."""
    x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    params, _ = jax.eval_shape(make_encoder(name, **options).init, jax.random.key(0), x)
    assert count_parameters(params) + classifier == expected


@pytest.mark.parametrize(
    ("depth", "width", "millions"),
    slow_unless(
        lambda value: value == (50, 1, 35),
        [(50, 1, 35), (50, 2, 140), (101, 1, 65), (101, 2, 257), (152, 1, 89), (152, 2, 354),
         (152, 3, 795)],
    ),
)  # fmt: skip
def test_sizes_of_simclr_v2(depth, width, millions):
    """With selective kernels, as in Table 1; it counts running statistics along."""
    x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    net = make_encoder(f"resnet{depth}", width=width, **V2)
    variables = jax.eval_shape(net.init, jax.random.key(0), x)
    assert round(count_parameters(variables) / 1e6) == millions


def test_every_stage_is_named():
    _, h, out = shapes("resnet50", width=2, dtype="bfloat16")
    assert {name: x.shape[1:] for name, x in out.items()} == {
        "stem": (56, 56, 128),
        "stage1": (56, 56, 512),
        "stage2": (28, 28, 1024),
        "stage3": (14, 14, 2048),
        "stage4": (7, 7, 4096),
        "h": (4096,),
    }
    assert h.dtype == jnp.float32 and out["stage4"].dtype == jnp.bfloat16


def test_cifar_stem_keeps_the_resolution():
    _, h, out = shapes("resnet18", size=32, stem="cifar")
    assert h.shape == (2, 512)
    assert out["stem"].shape == (2, 32, 32, 64) and out["stage4"].shape == (2, 4, 4, 512)


def test_parameters_are_float32_and_paths_readable():
    params, _, _ = shapes("resnet50", dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert params["stem"]["conv"]["kernel"].shape == (7, 7, 3, 64)
    assert params["stage2"]["block1"]["conv2"]["kernel"].shape == (3, 3, 128, 128)
    assert set(params["stage2"]["block1"]) - set(params["stage2"]["block2"]) == {
        "shortcut_conv",
        "shortcut_norm",
    }


# A float64 forward pass, written from the papers. Shapes are [n h w c].


def conv(x, kernel, stride=1):
    k, pad = kernel.shape[0], kernel.shape[0] // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows = range(0, x.shape[1] - k + 1, stride)
    cols = range(0, x.shape[2] - k + 1, stride)
    y = np.empty((x.shape[0], len(rows), len(cols), kernel.shape[-1]))
    for a, i in enumerate(rows):
        for b, j in enumerate(cols):
            y[:, a, b] = np.einsum("nhwc,hwcd->nd", x[:, i : i + k, j : j + k], kernel)
    return y


def batch_norm(x, p):
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(var + 1e-5) * p["scale"] + p["bias"]


def max_pool(x):
    n, h, w, c = x.shape
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    y = np.empty((n, (h + 1) // 2, (w + 1) // 2, c))
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            y[:, i, j] = x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2))
    return y


def relu(x):
    return np.maximum(x, 0)


def mean_pool(x):
    """2x2 windows of stride 2; the last of an odd side averages what is there."""
    n, h, w, c = x.shape
    y = np.empty((n, (h + 1) // 2, (w + 1) // 2, c))
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            y[:, i, j] = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2))
    return y


def selective_kernel(x, p, stride):
    half = p["conv"]["kernel"].shape[-1] // 2
    both = relu(batch_norm(conv(x, p["conv"]["kernel"], stride), p["norm"]))
    one, other = both[..., :half], both[..., half:]
    pooled = (one + other).mean((1, 2), keepdims=True)
    squeezed = relu(batch_norm(conv(pooled, p["squeeze"]["kernel"]), p["squeeze_norm"]))
    logits = conv(squeezed, p["mix"]["kernel"])
    share = 1 / (1 + np.exp(logits[..., half:] - logits[..., :half]))
    return share * one + (1 - share) * other


def block(x, p, stride, shortcut="conv"):
    strides = (1, stride, 1) if "conv3" in p else (stride, 1)
    y = x
    for i, s in enumerate(strides, start=1):
        if i == 2 and "sk" in p:
            y = selective_kernel(y, p["sk"], s)
            continue
        y = batch_norm(conv(y, p[f"conv{i}"]["kernel"], s), p[f"norm{i}"])
        y = relu(y) if i < len(strides) else y
    if "shortcut_conv" in p:
        if shortcut == "pool" and stride == 2:
            x, stride = mean_pool(x), 1
        x = batch_norm(conv(x, p["shortcut_conv"]["kernel"], stride), p["shortcut_norm"])
    return relu(x + y)


def forward(x, params, stem, shortcut="conv"):
    if stem == "deep":
        for i, stride in ((1, 2), (2, 1)):
            x = conv(x, params["stem"][f"conv{i}"]["kernel"], stride)
            x = relu(batch_norm(x, params["stem"][f"norm{i}"]))
    x = conv(x, params["stem"]["conv"]["kernel"], 2 if stem == "imagenet" else 1)
    x = relu(batch_norm(x, params["stem"]["norm"]))
    x = max_pool(x) if stem != "cifar" else x
    for i in range(1, len(params)):
        for j, p in enumerate(params[f"stage{i}"].values()):
            x = block(x, p, 2 if i > 1 and j == 0 else 1, shortcut)
    return x.mean((1, 2))


def drawn(net, x):
    """Parameters (no scale of which is 0 or 1, so that nothing hides) and fresh buffers."""
    params, buffers = jax.eval_shape(net.init, jax.random.key(0), x)
    rng = np.random.default_rng(0)

    def draw(p):
        fan_in = np.prod(p.shape[:-1]) if len(p.shape) > 1 else 4
        return (rng.normal(size=p.shape) / np.sqrt(fan_in)).astype(np.float32)

    return jax.tree.map(draw, params), jax.tree.map(lambda b: np.ones(b.shape, b.dtype), buffers)


@pytest.fixture(scope="module")
def tiny_depths():
    """Depths with the fewest blocks that still show every kind; bottlenecks from 50 on."""
    depths = {4: (1,), 8: (1, 1), 53: (1,), 56: (2, 1)}
    BLOCKS_PER_STAGE.update(depths)
    yield
    for depth in depths:
        del BLOCKS_PER_STAGE[depth]


@pytest.fixture(scope="module")
def bottleneck(tiny_depths):
    """(net, params, buffers, images, h): the imagenet stem on sides that test the padding."""
    net = Net(resnet(56, width=1 / 16))
    x = np.random.default_rng(1).uniform(size=(6, 21, 24, 3)).astype(np.float32)
    params, buffers = drawn(net, x)
    return net, params, buffers, x, train_features(net)(params, buffers, x)


def as_float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def train_features(net):
    return jax.jit(lambda params, buffers, x: net.apply(params, buffers, x, train=True)[0][0])


def test_bottleneck_net_matches_the_oracle(bottleneck):
    _, params, _, x, h = bottleneck
    expected = forward(np.asarray(x, np.float64), as_float64(params), "imagenet")
    np.testing.assert_allclose(h, expected, rtol=1e-4, atol=1e-4)


def test_basic_net_with_cifar_stem_matches_the_oracle(tiny_depths):
    net = Net(resnet(8, width=1 / 16, stem="cifar"))
    x = np.random.default_rng(1).uniform(size=(6, 9, 8, 3)).astype(np.float32)
    params, buffers = drawn(net, x)
    h = train_features(net)(params, buffers, x)
    expected = forward(np.asarray(x, np.float64), as_float64(params), "cifar")
    np.testing.assert_allclose(h, expected, rtol=1e-4, atol=1e-4)


def test_simclr_v2_net_matches_the_oracle(tiny_depths):
    """Deep stem, pooled shortcuts on odd and even sides, selective kernels."""
    net = Net(resnet(56, width=1 / 16, **V2))
    x = np.random.default_rng(1).uniform(size=(6, 21, 24, 3)).astype(np.float32)
    params, buffers = drawn(net, x)
    assert params["stage1"]["block1"]["sk"]["squeeze"]["kernel"].shape == (1, 1, 4, 32)
    h = train_features(net)(params, buffers, x)
    expected = forward(np.asarray(x, np.float64), as_float64(params), "deep", "pool")
    np.testing.assert_allclose(h, expected, rtol=1e-4, atol=1e-4)


def test_equal_mixing_logits_average_the_branches():
    conv_layer = functools.partial(nn.Conv, use_bias=False)

    def conv(channels, kernel, stride=1, **options):
        return conv_layer(
            channels, (kernel, kernel), (stride, stride), ((kernel // 2,) * 2,) * 2, **options
        )

    norm = functools.partial(nn.BatchNorm, use_running_average=True, epsilon=1e-5)
    module = SelectiveKernel(4, 2, 32, conv, norm)
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
    variables, apply = jax.jit(module.init)(jax.random.key(0), x), jax.jit(module.apply)
    branches = nn.relu(conv(8, 3, 2).apply({"params": variables["params"]["conv"]}, x))
    branches = branches / np.sqrt(1 + 1e-5)
    mean = (branches[..., :4] + branches[..., 4:]) / 2
    assert not np.allclose(apply(variables, x), mean, atol=1e-3)
    variables["params"]["mix"]["kernel"] *= 0
    np.testing.assert_allclose(apply(variables, x), mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spread", [1.0, 0.1, 0.01])
def test_selective_kernels_of_few_similar_images_are_accurate_in_float32(spread):
    """Pooled features of 4 images: one pass over them would lose their variance to rounding."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 16, 16, 16)) + spread * rng.normal(size=(4, 16, 16, 16))
    x = np.maximum(x, 0)

    def features(dtype):
        conv = functools.partial(_conv, kernel_init=KERNEL_INITS["lecun"], dtype=dtype)
        norm = functools.partial(norm_lib.batch_norm, train=True, dtype=dtype)
        module = SelectiveKernel(16, 1, 32, conv, norm)
        variables = jax.jit(module.init)(jax.random.key(0), jnp.asarray(x, jnp.float32))
        variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
        apply = jax.jit(functools.partial(module.apply, mutable=["batch_stats"]))
        return np.asarray(apply(variables, jnp.asarray(x, dtype))[0], np.float64)

    single = features(jnp.float32)
    with jax.enable_x64():
        double = features(jnp.float64)
    assert np.abs(single - double).max() < 1e-4 * np.abs(double).max()


def test_bfloat16_trains_with_float32_statistics(bottleneck):
    """Forward close to float32, gradients finite through the max pool, statistics float32."""
    net, params, buffers, x, expected = bottleneck
    half = Net(net.module.clone(dtype=jnp.bfloat16))

    def loss(params):
        (h, out), after = half.apply(params, buffers, x, train=True)
        return jnp.sum(h**2), (h, out, after)

    grads, (h, out, after) = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert h.dtype == jnp.float32 and out["stage2"].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((grads, after))} == {jnp.dtype("float32")}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert float(jnp.linalg.norm(grads["stem"]["conv"]["kernel"])) > 0
    assert np.linalg.norm(h - expected) < 0.05 * np.linalg.norm(expected)


def test_blocks_start_as_the_identity(tiny_depths, monkeypatch):
    """The last BatchNorm scale of each block is 0 at first, every other one 1."""
    monkeypatch.setitem(KERNEL_INITS, "lecun", nn.initializers.zeros)  # compiles in no time
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    for depth, last in ((4, "norm2"), (53, "norm3")):
        net = Net(resnet(depth, width=1 / 16))
        params, _ = jax.jit(net.init, static_argnums=1)(jax.random.key(0), x)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            names = [entry.key for entry in path]
            if names[-1] == "scale":
                assert np.all(leaf == (0 if names[-2] == last else 1)), names


def test_kernel_initialisers(tiny_depths):
    """Variance 1/fan_in, or 2/fan_out."""
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    for name, expected in (("lecun", 1 / (9 * 64)), ("he_fan_out", 2 / (9 * 64))):
        net = Net(resnet(4, kernel_init=name))
        kernel = jax.jit(
            lambda key, net=net: net.init(key, x)[0]["stage1"]["block1"]["conv2"]["kernel"]
        )(jax.random.key(0))
        np.testing.assert_allclose(np.var(np.asarray(kernel)), expected, rtol=0.02)
