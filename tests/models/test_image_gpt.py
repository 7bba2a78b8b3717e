"""Image GPT's net against published sizes and a float64 NumPy forward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.tree_paths import by_path, replace
from ssl_jax.models import count_parameters, make_encoder
from ssl_jax.models.layers import restack
from tests.models.test_text_decoder import rms_norm

TINY = dict(name="image_gpt_tiny", num_colors=7, num_positions=9, dim=8, depth=2, num_heads=2)
RNG = np.random.default_rng(0)
PIXELS = {
    "tokens": RNG.integers(0, 8, (2, 9)).astype(np.int32),
    "position": np.tile(np.arange(9, dtype=np.int32), (2, 1)),
    "hidden": RNG.uniform(size=(2, 9)) < 0.4,
}


@pytest.mark.parametrize(
    ("size", "expected"),
    [("small", 76_571_648), ("medium", 455_157_760), ("large", 1_362_250_752)],
)
def test_parameter_counts(size, expected):
    net = make_encoder(f"image_gpt_{size}", scan_layers=True)
    row = jax.ShapeDtypeStruct((1, 16), jnp.int32)
    params, _ = jax.eval_shape(net.init, jax.random.key(0), dict(tokens=row, position=row))
    assert count_parameters(params) == expected


def oracle(params, pixels, causal):
    """The last tokens of one image [l d], float64."""
    x = params["color"]["embedding"][pixels["tokens"]]
    x = x * ~pixels["hidden"][:, None] + params["position"]["embedding"]
    for i in (1, 2):
        p = params[f"layer{i}"]
        y = rms_norm(x, p["norm1"], 1e-5)
        q, k, v = np.split(y @ p["attn"]["qkv"]["kernel"], 3, axis=1)
        out = np.zeros(x.shape)
        for head in np.split(np.arange(8), 2):
            logits = q[:, head] @ k[:, head].T / 2.0
            logits = np.where(np.tri(9) if causal else np.ones((9, 9)), logits, -np.inf)
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            out[:, head] = weights / weights.sum(axis=1, keepdims=True) @ v[:, head]
        x = x + out @ p["attn"]["proj"]["kernel"]
        y = rms_norm(x, p["norm2"], 1e-5) @ p["mlp"]["fc1"]["kernel"]
        x = x + y / (1 + np.exp(-1.702 * y)) @ p["mlp"]["fc2"]["kernel"]
    return rms_norm(x, params["norm"], 1e-5)


@pytest.mark.parametrize("options", [dict(causal=True, scan_layers=True), dict(causal=False)])
def test_equals_the_oracle(options):
    net = make_encoder(**TINY, **options)
    single = make_encoder(**TINY, **{**options, "scan_layers": False})
    shapes, _ = jax.eval_shape(single.init, jax.random.key(0), PIXELS)
    params = jax.tree.map(lambda p: (0.5 * RNG.normal(size=p.shape)).astype(np.float32), shapes)
    target, _ = jax.eval_shape(net.init, jax.random.key(0), PIXELS)
    own = jax.tree.map(jnp.asarray, replace(target, restack(by_path(params), by_path(target))))
    (_, out), _ = jax.jit(functools.partial(net.apply, train=False))(own, {}, PIXELS)
    assert not any("bias" in path for path in by_path(params))
    params = jax.tree.map(np.float64, params)
    for i in range(2):
        row = {name: x[i] for name, x in PIXELS.items()}
        expected = oracle(params, row, options["causal"])
        np.testing.assert_allclose(out["tokens"][i], expected, rtol=1e-4, atol=1e-4)


def test_initial_values_have_the_published_deviations():
    net = make_encoder("image_gpt_tiny", dim=128, depth=2, num_positions=400, num_colors=400)
    params = by_path(jax.jit(net.init)(jax.random.key(0), PIXELS)[0])
    for path, std in {
        "color/embedding": 0.02,
        "position/embedding": 0.01,
        "layer1/attn/qkv/kernel": 128**-0.5,
        "layer1/attn/proj/kernel": 256**-0.5,
        "layer2/mlp/fc1/kernel": 0.02,
        "layer2/mlp/fc2/kernel": 0.02,
    }.items():
        np.testing.assert_allclose(np.std(params[path]), std, rtol=0.05, err_msg=path)
    assert not params["output/embedding"].any()
