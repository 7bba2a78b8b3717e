"""T5's net against published sizes, a float64 NumPy forward pass, and itself with a cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path, replace
from ssl_jax.models import count_parameters, decoding, make_encoder
from ssl_jax.models.decoding import Sampling
from ssl_jax.models.layers import restack
from ssl_jax.models.relative_positions import relative_bucket
from ssl_jax.models.transformer import output_table
from tests.marks import slow_unless
from tests.models.test_text_decoder import rms_norm
from tests.models.test_transformer import gelu_tanh

HEADS = 3
TINY = dict(
    name="t5_tiny", vocab_size=13, dim=8, depth=2, num_heads=HEADS, head_dim=4, hidden_dim=10,
    num_buckets=8, max_distance=6,
)  # fmt: skip
RNG = np.random.default_rng(0)
SEGMENT = np.array([[1] * 9, [1] * 6 + [0] * 3], np.int32)
TEXT = {
    "tokens": RNG.integers(0, 13, (2, 9)).astype(np.int32),
    "segment": SEGMENT,
    "written": RNG.integers(0, 13, (2, 7)).astype(np.int32),
}
GATED = dict(activation="gated_gelu", tied=False, scan_layers=True, remat="dots")


@pytest.mark.parametrize(
    ("name", "expected"),
    slow_unless(
        lambda value: value[0] in ("t5_base", "t5_1_1_base"),
        [
            ("t5_small", 60_506_624),
            ("t5_base", 222_903_552),
            ("t5_large", 737_668_096),
            ("t5_3b", 2_851_598_336),
            ("t5_11b", 11_307_321_344),
            ("t5_1_1_small", 76_961_152),
            ("t5_1_1_base", 247_577_856),
            ("t5_1_1_large", 783_150_080),
            ("t5_1_1_xl", 2_849_757_184),
            ("t5_1_1_xxl", 11_135_332_352),
        ],
    ),
)
def test_parameter_counts(name, expected):
    net = make_encoder(name, scan_layers=True)
    shapes = {key: jax.ShapeDtypeStruct((1, 16), jnp.int32) for key in ("tokens", "segment")}
    assert count_parameters(jax.eval_shape(net.init, jax.random.key(0), shapes)[0]) == expected


@functools.cache
def drawn(**options):
    """A net, its parameters, of which none is 0 or 1, and the same with single layers."""
    net = make_encoder(**{**TINY, **options})
    single = make_encoder(**{**TINY, **options, "scan_layers": False})
    shapes, _ = jax.eval_shape(single.init, jax.random.key(0), TEXT)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: (0.5 * rng.normal(size=p.shape)).astype(np.float32), shapes)
    target, _ = jax.eval_shape(net.init, jax.random.key(0), TEXT)
    own = replace(target, restack(by_path(params), by_path(target)))
    return net, own, params


def attend(x, memory, params, bias, sees):
    q, k, v = (
        a @ params[n]["kernel"] for a, n in ((x, "query"), (memory, "key"), (memory, "value"))
    )
    out = np.zeros(q.shape)
    for i in range(len(x)):
        keys = [j for j in range(len(memory)) if sees(i, j)]
        for h, head in enumerate(np.split(np.arange(q.shape[1]), HEADS)):
            weights = np.exp([q[i, head] @ k[j, head] + bias(h, i, j) for j in keys])
            out[i, head] = weights / weights.sum() @ v[keys][:, head]
    return out @ params["proj"]["kernel"]


def stack(x, params, real, memory=None):
    causal = memory is not None
    table = params["positions"]["embedding"]

    def bias(h, i, j):
        bucket = relative_bucket(
            jnp.array(j - i), bidirectional=not causal, num_buckets=8, max_distance=6
        )
        return table[int(bucket), h]

    for number in (1, 2):
        p = params[f"layer{number}"]
        norm = functools.partial(rms_norm, eps=1e-6)
        y = norm(x, p["norm1"])
        x = x + attend(y, y, p["attn"], bias, lambda i, j: j <= i if causal else real[j])
        if causal:
            y = norm(x, p["cross_norm"])
            x = x + attend(y, memory, p["cross_attn"], lambda *_: 0.0, lambda i, j: real[j])
        y = norm(x, p["norm2"])
        hidden = y @ p["mlp"]["fc1"]["kernel"]
        if "gate" in p["mlp"]:
            hidden = gelu_tanh(y @ p["mlp"]["gate"]["kernel"]) * hidden
        else:
            hidden = np.maximum(hidden, 0)
        x = x + hidden @ p["mlp"]["fc2"]["kernel"]
    return norm(x, params["norm"])


@pytest.mark.parametrize("options", [{}, GATED], ids=str)
def test_equals_the_oracle(options):
    net, own, params = drawn(**options)
    (h, out), _ = jax.jit(functools.partial(net.apply, train=True, key=jax.random.key(0)))(
        own, {}, TEXT
    )
    params = jax.tree.map(np.float64, params)
    embedding = params["embed"]["token"]["embedding"]
    for i in range(2):
        real = SEGMENT[i] > 0
        read = stack(embedding[TEXT["tokens"][i]], params["encoder"], real)
        wrote = stack(embedding[TEXT["written"][i]], params["decoder"], real, read)
        if "output" not in params:
            wrote = wrote / np.sqrt(8)
        np.testing.assert_allclose(out["tokens"][i][real], read[real], rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(out["written"][i], wrote, rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(h[i], read[real].mean(axis=0), rtol=2e-4, atol=2e-4)


def test_future_and_padding_have_no_influence():
    """The gradient of a vector of the decoder is 0 at what it must not see, and nowhere else."""
    net, params, _ = drawn()

    def vector(read, written):
        def given(embed, tokens):
            del embed
            return read if tokens.shape[1] == 9 else written

        module = net.module
        with nn_intercept(given):
            return module.apply({"params": params}, TEXT, train=False)[1]["written"][1, 3].sum()

    read, written = (jnp.asarray(RNG.normal(size=(2, t, 8)), jnp.float32) for t in (9, 7))
    d_read, d_written = jax.jit(jax.grad(vector, (0, 1)))(read, written)
    assert np.asarray(d_written[1] != 0).any(axis=1).tolist() == [True] * 4 + [False] * 3
    assert np.asarray(d_read[1] != 0).any(axis=1).tolist() == [True] * 6 + [False] * 3
    assert not d_read[0].any() and not d_written[0].any()


def nn_intercept(given):
    from flax import linen as nn

    from ssl_jax.models.encoder_decoder import TokenEmbedding

    def intercept(next_function, args, kwargs, context):
        if isinstance(context.module, TokenEmbedding) and context.method_name == "__call__":
            return given(context.module, *args)
        return next_function(*args, **kwargs)

    return nn.intercept_methods(intercept)


@pytest.mark.parametrize("options", [{}, GATED], ids=str)
def test_answers_are_those_of_the_whole_decoder(options):
    net, params, _ = drawn(**options)
    greedy = Sampling(max_new_tokens=6, temperature=0.0)
    text = {name: TEXT[name] for name in ("tokens", "segment")}
    keys = jax.random.split(jax.random.key(0), 2)
    found = jax.jit(
        lambda params, text: decoding.answer(
            net.module, params, text, keys, sampling=greedy, start=0, end=13
        )
    )(params, text)
    assert found.lengths.tolist() == [6, 6]
    written = np.concatenate([np.zeros((2, 1), np.int32), found.tokens[:, :-1]], axis=1)
    (_, out), _ = jax.jit(functools.partial(net.apply, train=False))(
        params, {}, {**text, "written": written}
    )
    logits = np.float64(out["written"]) @ np.float64(output_table(params))[:13].T
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    np.testing.assert_array_equal(log_p.argmax(axis=-1), found.tokens)
    chosen = np.take_along_axis(log_p, np.asarray(found.tokens)[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(found.log_probabilities, chosen, atol=1e-5)


def test_initial_values_have_the_published_deviations():
    net = make_encoder("t5_tiny", dim=64, num_heads=4, head_dim=32, depth=1, vocab_size=500)
    params = by_path(jax.jit(net.init)(jax.random.key(0), TEXT)[0])
    for path, std in {
        "embed/token/embedding": 1.0,
        "encoder/layer1/attn/query/kernel": (64 * 32) ** -0.5,
        "encoder/layer1/attn/key/kernel": 64**-0.5,
        "decoder/layer1/cross_attn/value/kernel": 64**-0.5,
        "decoder/layer1/attn/proj/kernel": 128**-0.5,
        "decoder/layer1/mlp/fc1/kernel": 64**-0.5,
        "decoder/layer1/mlp/fc2/kernel": 512**-0.5,
    }.items():
        np.testing.assert_allclose(np.std(params[path]), std, rtol=0.05, err_msg=path)
    assert not any("bias" in path for path in params)
    assert params["embed/token/embedding"].shape == (512, 64)  # a multiple of 128


def test_buckets_that_reach_beyond_the_largest_distance_are_named():
    with pytest.raises(UserError, match="model.max_distance is 16; 32 buckets .* more than 16"):
        make_encoder("t5_tiny", max_distance=16)
