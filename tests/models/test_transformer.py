"""Text encoders against published sizes and a float64 NumPy forward pass."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import optim
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path, is_stacked, replace
from ssl_jax.models import Net, PairHead, count_parameters, make_encoder, token_head
from ssl_jax.models.layers import restack
from ssl_jax.models.transformer import mean_over_text
from ssl_jax.models.transformer_layers import Layer
from tests.marks import slow_unless

TINY = dict(
    name="bert_tiny", vocab_size=13, dim=8, depth=2, num_heads=2, mlp_ratio=2.0, max_length=12
)
# Two packed texts and padding; one text; an odd number of tokens.
SEGMENT = np.array([[1, 1, 1, 2, 2, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1]], np.int32)
POSITION = np.array([[0, 1, 2, 0, 1, 2, 3, 0, 0], [*range(9)]], np.int32)
RNG = np.random.default_rng(0)
TEXT = {
    "tokens": RNG.integers(0, 13, SEGMENT.shape).astype(np.int32),
    "segment": SEGMENT,
    "position": POSITION,
    "type": RNG.integers(0, 2, SEGMENT.shape).astype(np.int32),
}
ABSTRACT = {name: jax.ShapeDtypeStruct((2, 128), jnp.int32) for name in TEXT}
REAL = SEGMENT > 0


def tiny(**options):
    return make_encoder(**{**TINY, **options})


def drawn(net, x=TEXT):
    """Parameters of which none is 0 or 1, so that nothing hides."""
    params, _ = jax.eval_shape(net.init, jax.random.key(0), x)
    rng = np.random.default_rng(0)

    def draw(path, p):
        scale = 0.3 if path[-1].key in ("bias", "scale") else p.shape[-2] ** -0.5
        return (scale * rng.normal(size=p.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, params)


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def apply(net, params, x=TEXT, *, train=False, key=None):
    (h, out), _ = net.apply(params, {}, x, train=train, key=key)
    return h, out


@pytest.mark.parametrize(
    ("name", "pretraining", "expected"),
    slow_unless(
        lambda value: value[0] in ("bert_base", "bert_tiny"),
        [
            ("bert_base", False, 109_482_240),
            ("bert_large", False, 335_141_888),
            ("bert_base", True, 110_106_428),
            ("bert_large", True, 336_226_108),
            ("roberta_base", False, 124_645_632),
            ("roberta_large", False, 355_359_744),
            ("bert_tiny", False, 4_385_920),
        ],
    ),
)
@pytest.mark.parametrize("scan_layers", [False, True])
def test_parameter_counts(name, pretraining, expected, scan_layers):
    """With the pooler, and with the heads of the pretraining: tokens and pairs."""
    net = make_encoder(name, pooler=True, scan_layers=scan_layers)
    trees = [jax.eval_shape(net.init, jax.random.key(0), ABSTRACT)[0]]
    if pretraining:
        h = jax.ShapeDtypeStruct((2, net.module.dim), jnp.float32)
        for head in (token_head(net), Net(PairHead())):
            trees.append(jax.eval_shape(head.init, jax.random.key(0), h)[0])
    assert count_parameters(trees) == expected


# The forward pass of the papers, token by token where it is not a matrix product.


def norm(x, params, eps):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * params["scale"] + params["bias"]


def dense(x, params):
    return x @ params["kernel"] + params["bias"]


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attend(x, segment, params, heads, causal):
    t, dim = x.shape
    q, k, v = np.split(dense(x, params["qkv"]), 3, axis=1)
    out = np.zeros(x.shape)
    for i in range(t):
        seen = [j for j in range(t) if segment[j] == segment[i] and (j <= i or not causal)]
        for head in np.split(np.arange(dim), heads):
            logits = np.array([q[i, head] @ k[j, head] / math.sqrt(len(head)) for j in seen])
            weights = np.exp(logits) / np.exp(logits).sum()
            out[i, head] = sum(w * v[j, head] for w, j in zip(weights, seen, strict=True))
    return dense(out, params["proj"])


def layer_oracle(x, segment, params, *, act, eps, heads=2, pre_norm=False, causal=False):
    """One text [t d]."""

    def mlp(x):
        return dense(act(dense(x, params["mlp"]["fc1"])), params["mlp"]["fc2"])

    branches = (lambda x: attend(x, segment, params["attn"], heads, causal), mlp)
    for branch, name in zip(branches, ("norm1", "norm2"), strict=True):
        if pre_norm:
            x = x + branch(norm(x, params[name], eps))
        else:
            x = norm(x + branch(x), params[name], eps)
    return x


def oracle(params, text, *, act, eps, offset=0):
    """Every layer's tokens [n l d], the embeddings first."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    embed = params["embed"]
    layers = [[] for _ in range(1 + sum(name.startswith("layer") for name in params))]
    for i, tokens in enumerate(text["tokens"]):
        x = embed["token"]["embedding"][tokens]
        x = x + embed["position"]["embedding"][text["position"][i] + offset]
        types = text["type"][i] if "type" in text else np.zeros_like(tokens)
        x = norm(x + embed["type"]["embedding"][types], embed["norm"], eps)
        layers[0].append(x)
        for j in range(1, len(layers)):
            x = layer_oracle(x, text["segment"][i], params[f"layer{j}"], act=act, eps=eps)
            layers[j].append(x)
    return np.array(layers)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_equals_the_oracle(family):
    if family == "bert":
        net, act, eps, offset, text = tiny(pooler=True), gelu_tanh, 1e-12, 0, TEXT
    else:
        net = tiny(name="roberta_tiny", pooler=True, norm_eps=0.1)
        act, eps, offset = gelu, 0.1, 2
        text = {name: x for name, x in TEXT.items() if name != "type"}
    params = drawn(net, text)
    h, out = apply(net, params, text)
    assert set(out) == {"layer1", "layer2", "tokens", "pooler", "h"}
    layers = oracle(params, text, act=act, eps=eps, offset=offset)
    for i in (1, 2):
        np.testing.assert_allclose(out[f"layer{i}"], layers[i], rtol=1e-4, atol=2e-5)
    np.testing.assert_array_equal(out["tokens"], out["layer2"])
    last = layers[-1]
    mean = [last[i][REAL[i]].mean(axis=0) for i in range(2)]
    np.testing.assert_allclose(h, mean, rtol=1e-4, atol=2e-5)
    pooled = np.tanh(dense(last[:, 0], jax.tree.map(np.float64, params["pooler"])))
    np.testing.assert_allclose(out["pooler"], pooled, rtol=1e-4, atol=2e-5)
    if family == "roberta":
        return
    for pool, expected in (("cls", last[:, 0]), ("pooler", pooled)):
        h, _ = apply(Net(net.module.clone(pool=pool)), params, text)
        np.testing.assert_allclose(h, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_layers_of_other_transformers(pre_norm, causal):
    fields = dict(
        num_heads=2, mlp_ratio=2.0, activation="gelu", norm_eps=1e-5, dropout=0.1,
        attention_dropout=0.0, attention="auto", train=False, dtype=jnp.float32,
    )  # fmt: skip
    layer = Layer(**fields, pre_norm=pre_norm, causal=causal)
    x = RNG.normal(size=(2, 9, 8)).astype(np.float32)
    params = jax.tree.map(
        lambda p: RNG.normal(size=p.shape).astype(np.float32) / 3,
        jax.eval_shape(layer.init, jax.random.key(0), x, SEGMENT)["params"],
    )
    got = jax.jit(layer.apply)({"params": params}, x, SEGMENT)
    exact = jax.tree.map(np.float64, params)
    for i in range(2):
        expected = layer_oracle(
            np.float64(x[i]), SEGMENT[i], exact, act=gelu, eps=1e-5, pre_norm=pre_norm,
            causal=causal,
        )  # fmt: skip
        np.testing.assert_allclose(got[i], expected, rtol=1e-4, atol=2e-5)


def test_a_packed_text_is_encoded_as_if_alone():
    net = tiny()
    params = drawn(net)
    _, packed = apply(net, params)
    alone = {name: np.zeros((1, 9), np.int32) for name in TEXT}
    for name, x in TEXT.items():
        alone[name][0, :4] = x[0, 3:7] if name != "segment" else 1
    _, single = apply(net, params, alone)
    np.testing.assert_allclose(single["tokens"][0, :4], packed["tokens"][0, 3:7], atol=1e-5)
    # And what padding holds does not matter.
    other = {name: np.where(SEGMENT == 0, 5 * (name != "segment"), x) for name, x in TEXT.items()}
    other["type"] = np.minimum(other["type"], 1)
    h, out = apply(net, params, other)
    np.testing.assert_allclose(out["tokens"][REAL], packed["tokens"][REAL], atol=1e-6)
    np.testing.assert_allclose(h, packed["h"], atol=1e-6)


@functools.partial(jax.jit, static_argnums=0)
def gradient(net, params):
    def loss(params):
        (h, out), _ = net.apply(params, {}, TEXT, train=True)
        tokens = jnp.where(REAL[..., None], jnp.sin(3 * out["tokens"]), 0)
        return jnp.sum(tokens) + jnp.sum(h**2)

    return jax.grad(loss)(params)


@pytest.mark.parametrize(
    "remat", slow_unless(lambda remat: remat != "dots", ["none", "dots", "full"])
)
def test_scanned_layers_equal_unrolled_ones(remat):
    plain, scanned = tiny(dropout=0.0), tiny(dropout=0.0, scan_layers=True, remat=remat)
    params = drawn(plain)
    shapes, _ = jax.eval_shape(scanned.init, jax.random.key(0), TEXT)
    stacked = replace(shapes, restack(by_path(params), by_path(shapes)))
    for path, leaf in by_path(shapes).items():
        assert leaf.shape == by_path(stacked)[path].shape
        assert is_stacked(path) == path.startswith("layers/")
        assert not is_stacked(path) or leaf.shape[0] == 2
    if remat == "none":
        for name, x in apply(plain, params)[1].items():
            got = apply(scanned, stacked)[1][name]
            np.testing.assert_allclose(got, x, atol=1e-6, err_msg=name)
    grads = by_path(gradient(plain, params))
    back = restack(by_path(gradient(scanned, stacked)), grads)
    assert back.keys() == grads.keys()
    for path, grad in grads.items():
        np.testing.assert_allclose(back[path], grad, rtol=1e-4, atol=1e-5, err_msg=path)


def test_unrolled_layers_may_be_recomputed_too():
    params = drawn(tiny())
    expected = gradient(tiny(dropout=0.0), params)
    got = by_path(gradient(tiny(dropout=0.0, remat="full"), params))
    for path, grad in by_path(expected).items():
        np.testing.assert_allclose(got[path], grad, rtol=1e-4, atol=1e-5, err_msg=path)


def test_recomputing_takes_less_memory():
    def temporaries(remat):
        net = tiny(depth=8, dropout=0.0, scan_layers=True, remat=remat)
        params, _ = jax.eval_shape(net.init, jax.random.key(0), TEXT)
        return gradient.lower(net, params).compile().memory_analysis().temp_size_in_bytes

    none, dots, full = (temporaries(remat) for remat in ("none", "dots", "full"))
    assert full < 0.7 * dots and dots < 0.7 * none


def test_restack_takes_what_it_finds():
    arrays = {"a/layer1/x": [1, 2], "a/layer2/x": [3, 4], "layer1/x": [5], "b/layers/y": [[6], [7]]}
    arrays = {path: np.array(x) for path, x in arrays.items()}
    wanted = ["a/layers/x", "layers/x", "b/layer1/y", "b/layer2/y", "c/layers/x", "c/layer1/y"]
    got = restack(arrays, wanted)
    assert {path: x.tolist() for path, x in got.items()} == {
        "a/layers/x": [[1, 2], [3, 4]], "layers/x": [[5]], "b/layer1/y": [6], "b/layer2/y": [7],
    }  # fmt: skip
    # What is wanted in the form it has stays untouched, a depth that differs included.
    assert restack(arrays, ["a/layer1/x", "b/layers/y"]).keys() == arrays.keys()


def test_dropout_is_drawn_when_training_only():
    """Another draw with another key; that of the weights alone too, and in every layer."""
    net = tiny(dropout=0.2, scan_layers=True)
    params = drawn(net)
    still = apply(net, params)[1]
    one, again, other = (
        apply(net, params, train=True, key=jax.random.key(i))[1] for i in (0, 0, 1)
    )
    np.testing.assert_array_equal(one["tokens"], again["tokens"])
    for out in (other, still):
        assert np.abs(out["layer1"] - one["layer1"]).max() > 0.1
    weights_only = tiny(dropout=0.0, attention_dropout=0.3, scan_layers=True)
    out = apply(weights_only, params, train=True, key=jax.random.key(0))[1]
    assert np.abs(out["layer1"] - still["layer1"]).max() > 0.01


def test_layers_of_a_stack_start_and_drop_out_differently():
    net = tiny(scan_layers=True, dim=32, vocab_size=400)
    params, _ = jax.jit(net.init)(jax.random.key(0), TEXT)
    kernel = np.asarray(params["layers"]["attn"]["qkv"]["kernel"])
    assert kernel.shape == (2, 32, 96) and np.abs(kernel[0] - kernel[1]).max() > 0.01
    # N(0, 0.02^2) cut off at two of its standard deviations.
    for x in (kernel, np.asarray(params["embed"]["token"]["embedding"])):
        np.testing.assert_allclose(x.std(), 0.88 * 0.02, rtol=0.03)
        assert 0.039 < np.abs(x).max() <= 0.04


def test_bfloat16_activations_follow_float32():
    net, half = tiny(pooler=True), tiny(pooler=True, dtype="bfloat16")
    params = drawn(net)
    h, out = apply(half, params)
    assert out["tokens"].dtype == jnp.bfloat16
    assert h.dtype == out["pooler"].dtype == jnp.float32
    np.testing.assert_allclose(h, apply(net, params)[0], atol=0.05)


def test_the_mean_of_an_empty_row_is_zero():
    h = mean_over_text(jnp.ones((1, 4, 3)), jnp.zeros((1, 4), jnp.int32))
    np.testing.assert_array_equal(h, np.zeros((1, 3)))


def test_biases_and_norms_of_a_stack_are_excluded_by_name():
    trees = []
    for scan_layers in (False, True):
        net = tiny(pooler=True, scan_layers=scan_layers)
        trees.append(jax.eval_shape(net.init, jax.random.key(0), TEXT)[0])
    assert optim.count_excluded(trees[0]) == optim.count_excluded(trees[1])
    decayed = {path for path, kept in by_path(optim.path_mask()(trees[1])).items() if kept}
    assert {path.rpartition("/")[2] for path in decayed} == {"kernel", "embedding"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(pool="pooler"), r"pool 'pooler' needs the pooler"),
        (dict(attention="cudnn", attention_dropout=0.1), r"'cudnn' has no dropout; set model.att"),
        (dict(num_heads=3), r"dim 8 does not divide into 3 heads"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        tiny(**options)


def test_texts_that_are_too_long_are_named():
    net = tiny(max_length=8)
    with pytest.raises(UserError, match=r"texts of 9 tokens .* set model.max_length=9"):
        jax.eval_shape(net.init, jax.random.key(0), TEXT)
