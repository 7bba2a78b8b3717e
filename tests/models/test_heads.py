"""Heads: the papers' parameter counts, SimCLR's layout, and a float64 forward pass."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.models import MLP, Net, count_parameters, projection_head
from ssl_jax.models.heads import dino_head, mlp_head


def param_shapes(net, width):
    h = jax.ShapeDtypeStruct((2, width), jnp.float32)
    return jax.tree.map(jnp.shape, jax.eval_shape(net.init, jax.random.key(0), h)[0])


@pytest.mark.parametrize(
    ("mlp", "width", "expected"),
    [
        pytest.param(MLP(2, 4096, 256, hidden_bias=True), 2048, 9_449_472, id="BYOL projector"),
        pytest.param(MLP(2, 4096, 256, hidden_bias=True), 256, 2_109_440, id="BYOL predictor"),
        pytest.param(MLP(3, 8192, 8192), 2048, 151_027_712, id="Barlow Twins projector"),
        pytest.param(MLP(2, 512, 2048, output_bias=True), 2048, 2_100_224, id="SimSiam predictor"),
    ],
)
def test_parameter_counts(mlp, width, expected):
    h = jax.ShapeDtypeStruct((2, width), jnp.float32)
    params, _ = jax.eval_shape(Net(mlp).init, jax.random.key(0), h)
    assert count_parameters(params) == expected


def test_simclr_layout():
    """No dense bias; scale and offset after the hidden layer, a scale alone after the last."""
    assert param_shapes(projection_head("nonlinear", output_dim=128), 2048) == {
        "dense1": {"kernel": (2048, 2048)},
        "norm1": {"scale": (2048,), "bias": (2048,)},
        "dense2": {"kernel": (2048, 128)},
        "norm2": {"scale": (128,)},
    }
    assert param_shapes(projection_head("linear", output_dim=64), 32) == {
        "dense1": {"kernel": (32, 64)},
        "norm1": {"scale": (64,)},
    }
    deep = param_shapes(projection_head(num_layers=3, hidden_dim=16, output_dim=8), 32)
    assert [deep[f"dense{i}"]["kernel"] for i in (1, 2, 3)] == [(32, 16), (16, 16), (16, 8)]


def test_without_batch_norm_hidden_layers_have_a_bias():
    assert param_shapes(projection_head(batch_norm=False, output_dim=8), 32) == {
        "dense1": {"kernel": (32, 32), "bias": (32,)},
        "dense2": {"kernel": (32, 8)},
    }


def test_output_norms():
    def after(output_norm):
        return param_shapes(Net(MLP(1, None, 4, output_norm=output_norm)), 4).get("norm1")

    assert after("none") is None and after("no_affine") is None
    assert after("scale") == {"scale": (4,)}
    assert after("affine") == {"scale": (4,), "bias": (4,)}
    with pytest.raises(UserError, match=r"unknown output_norm 'afine'.*Did you mean 'affine'"):
        after("afine")


@pytest.mark.parametrize("output_dim", [32, 64, 128, 256, 512, 1024, 2048])
@pytest.mark.parametrize("kind", ["linear", "nonlinear"])
def test_output_dims(kind, output_dim):
    net, h = projection_head(kind, output_dim=output_dim), jnp.zeros((2, 8))
    z, _ = jax.eval_shape(lambda h: net.apply(*net.init(jax.random.key(0), h), h, train=True), h)
    assert z.shape == (2, output_dim) and z.dtype == jnp.float32


def drawn(net, x):
    """Parameters no scale of which is 0 or 1, so that nothing hides, and fresh buffers."""
    params, buffers = jax.eval_shape(net.init, jax.random.key(0), x)
    rng = np.random.default_rng(0)

    def draw(p):
        return (rng.normal(size=p.shape) / np.sqrt(p.shape[0])).astype(np.float32)

    return jax.tree.map(draw, params), jax.tree.map(lambda b: np.ones(b.shape, b.dtype), buffers)


def normalised(x):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


@pytest.mark.parametrize("output_norm", ["none", "scale", "affine", "no_affine"])
def test_mlp_matches_the_oracle(output_norm):
    net = Net(MLP(3, 7, 5, output_norm=output_norm, hidden_bias=True, output_bias=True))
    x = np.random.default_rng(1).normal(size=(12, 6)).astype(np.float32)
    params, buffers = drawn(net, x)
    z, after = net.apply(params, buffers, x, train=True)

    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    y = np.asarray(x, np.float64)
    for i in (1, 2):
        y = y @ p[f"dense{i}"]["kernel"] + p[f"dense{i}"]["bias"]
        y = np.maximum(normalised(y) * p[f"norm{i}"]["scale"] + p[f"norm{i}"]["bias"], 0)
    y = y @ p["dense3"]["kernel"] + p["dense3"]["bias"]
    if output_norm != "none":
        affine = p.get("norm3", {})
        y = normalised(y) * affine.get("scale", 1) + affine.get("bias", 0)
    np.testing.assert_allclose(z, y, rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_equal_structs(after, buffers)


def test_no_head_is_the_identity():
    net = projection_head("none", output_dim=3)
    h = jnp.asarray(np.random.default_rng(1).normal(size=(4, 6)), jnp.bfloat16)
    params, buffers = net.init(jax.random.key(1), h)
    z, after = net.apply(params, buffers, h, train=True)
    assert params == {} and buffers == {} and after == {}
    assert z.dtype == jnp.float32
    np.testing.assert_array_equal(z, h.astype(jnp.float32))


def test_bfloat16_head_returns_float32_embeddings():
    """The last norm works on float32, so z has more than bfloat16's 8 bits."""
    net = projection_head(output_dim=8, dtype="bfloat16")
    h = np.random.default_rng(1).normal(size=(64, 16)).astype(np.float32)
    params, buffers = drawn(net, h)
    z, _ = net.apply(params, buffers, h, train=True)
    exact, _ = projection_head(output_dim=8).apply(params, buffers, h, train=True)
    assert z.dtype == jnp.float32 and np.any(z != z.astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_allclose(z, exact, atol=0.1)


@pytest.mark.parametrize(
    ("name", "std"), [("lecun", 1 / 16), ("pytorch", 1 / 16 / 3**0.5), ("dino", 0.02)]
)
def test_kernel_init(name, std):
    h = jax.ShapeDtypeStruct((2, 256), jnp.float32)
    head = mlp_head(1, None, 128, kernel_init=name)
    params, _ = jax.jit(head.init, static_argnums=1)(jax.random.key(0), h)
    kernel = params["dense1"]["kernel"]
    np.testing.assert_allclose(np.std(kernel), std, rtol=0.02)
    if name == "pytorch":  # nn.Linear: uniform between -1/sqrt(fan_in) and 1/sqrt(fan_in)
        np.testing.assert_allclose([kernel.min(), kernel.max()], [-1 / 16, 1 / 16], rtol=0.01)


def test_bad_values_are_named():
    with pytest.raises(UserError, match=r"unknown head 'nonlinaer'.*Did you mean 'nonlinear'"):
        projection_head("nonlinaer")
    with pytest.raises(UserError, match=r"unknown kernel_init 'torch'.*'pytorch'"):
        mlp_head(1, None, 8, kernel_init="torch").init(jax.random.key(0), jnp.zeros((1, 4)))
    with pytest.raises(UserError, match="output_dim 0"):
        projection_head(output_dim=0)


def test_dinos_head_is_an_mlp_with_biases_and_an_exact_gelu():
    h = jax.ShapeDtypeStruct((2, 384), jnp.float32)
    params, buffers = jax.eval_shape(dino_head().init, jax.random.key(0), h)
    assert list(params) == ["dense1", "dense2", "dense3"] and not buffers
    assert count_parameters(params) == 385 * 2048 + 2049 * 2048 + 2049 * 256

    net = dino_head(3, 6, 5)
    x = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    params, _ = net.init(jax.random.key(0), x)
    kernels = [layer["kernel"] for layer in params.values()]
    params = jax.tree.map(lambda p: 20 * p + 0.1, params)  # biases start at zero
    y, _ = net.apply(params, {}, x, train=True)
    expected = x.astype(np.float64)
    for i, layer in enumerate(params.values()):
        if i:
            expected = expected * (1 + np.vectorize(math.erf)(expected / math.sqrt(2))) / 2
        expected = expected @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"])
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    drawn = np.concatenate([kernel.ravel() for kernel in kernels])
    assert abs(drawn.std() - 0.02) < 0.005

    normed, _ = dino_head(batch_norm=True).init(jax.random.key(0), h)
    assert list(normed) == ["dense1", "norm1", "dense2", "norm2", "dense3"]
