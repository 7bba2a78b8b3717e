"""Causal text models against published sizes and a float64 NumPy forward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.tree_paths import by_path, replace
from ssl_jax.models import count_parameters, make_encoder
from ssl_jax.models.layers import restack
from tests.marks import slow_unless
from tests.models.test_transformer import (
    POSITION,
    REAL,
    SEGMENT,
    TEXT,
    apply,
    dense,
    drawn,
    gelu_tanh,
    norm,
)

TINY = dict(name="gpt2_tiny", vocab_size=13, dim=8, depth=2, num_heads=2, max_length=12)
ROWS = {name: TEXT[name] for name in ("tokens", "segment", "position")}
EPS = 1e-5


def tiny(**options):
    return make_encoder(**{**TINY, **options})


@pytest.mark.parametrize(
    ("name", "expected"),
    slow_unless(
        lambda value: value[0] in ("gpt1", "gpt2"),
        [
            ("gpt1", 116_534_784),
            ("gpt2", 124_439_808),
            ("gpt2_medium", 354_823_168),
            ("gpt2_large", 774_030_080),
            ("gpt2_xl", 1_557_611_200),
            ("gpt3_125m", 125_226_240),
            ("gpt3_350m", 355_871_744),
            ("gpt3_760m", 760_300_032),
            ("gpt3_1_3b", 1_315_723_264),
            ("gpt3_2_7b", 2_651_553_280),
            ("gpt3_6_7b", 6_658_404_352),
            ("gpt3_13b", 12_853_386_240),
            ("gpt3_175b", 174_604_259_328),
        ],
    ),
)
def test_parameter_counts(name, expected):
    net = make_encoder(name, scan_layers=True)
    shapes = {key: jax.ShapeDtypeStruct((1, 16), jnp.int32) for key in ROWS}
    assert count_parameters(jax.eval_shape(net.init, jax.random.key(0), shapes)[0]) == expected


def attend(x, params, sees, heads=2):
    """sees(i, j): whether token i attends to token j."""
    q, k, v = np.split(dense(x, params["qkv"]), 3, axis=1)
    out = np.zeros(x.shape)
    for i in range(len(x)):
        keys = [j for j in range(len(x)) if sees(i, j)]
        for head in np.split(np.arange(x.shape[1]), heads):
            weights = np.exp([q[i, head] @ k[j, head] / np.sqrt(len(head)) for j in keys])
            out[i, head] = weights / weights.sum() @ v[keys][:, head]
    return dense(out, params["proj"])


def rms_norm(x, params, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * params["scale"]


def oracle(params, text, *, normalise=norm, pre_norm=True, across=True, window=None):
    """The last tokens [n l d]."""
    params = jax.tree.map(np.float64, params)
    out = []
    for i, tokens in enumerate(text["tokens"]):
        position = np.arange(len(tokens)) if across else text["position"][i]
        x = params["embed"]["token"]["embedding"][tokens]
        x = x + params["embed"]["position"]["embedding"][position]
        for number in range(2):
            layer = params[f"layer{number + 1}"]
            width = window if number % 2 and window else len(tokens)

            def sees(a, b, row=i, width=width):
                same = across or text["segment"][row, a] == text["segment"][row, b]
                return same and a - width < b <= a

            def mlp(x, layer=layer):
                hidden = gelu_tanh(dense(x, layer["mlp"]["fc1"]))
                return dense(hidden, layer["mlp"]["fc2"])

            branches = (functools.partial(attend, params=layer["attn"], sees=sees), mlp)
            for branch, name in zip(branches, ("norm1", "norm2"), strict=True):
                if pre_norm:
                    x = x + branch(normalise(x, layer[name], EPS))
                else:
                    x = normalise(x + branch(x), layer[name], EPS)
        out.append(normalise(x, params["norm"], EPS) if pre_norm else x)
    return np.array(out)


@pytest.mark.parametrize(
    "options",
    [
        dict(pre_norm=False, across_texts=False),
        dict(norm="rms", window=3, scan_layers=True, remat="dots", tied=False),
        dict(window=3),
    ],
    ids=str,
)
def test_equals_the_oracle(options):
    net = tiny(**options)
    unrolled = tiny(**{**options, "scan_layers": False, "remat": "none"})
    single = params = drawn(unrolled, ROWS)
    if options.get("scan_layers"):
        shapes, _ = jax.eval_shape(net.init, jax.random.key(0), ROWS)
        params = replace(shapes, restack(by_path(single), by_path(shapes)))
    h, out = apply(net, params, ROWS)
    expected = oracle(
        single, ROWS,
        normalise=rms_norm if options.get("norm") == "rms" else norm,
        pre_norm=options.get("pre_norm", True),
        across=options.get("across_texts", True),
        window=options.get("window"),
    )  # fmt: skip
    np.testing.assert_allclose(out["tokens"][REAL], expected[REAL], rtol=1e-4, atol=3e-5)
    mean = [expected[i][REAL[i]].mean(axis=0) for i in range(2)]
    np.testing.assert_allclose(h, mean, rtol=1e-4, atol=3e-5)
    tables = [path for path in by_path(single) if path.startswith("output/")]
    assert tables == ([] if options.get("tied", True) else ["output/embedding"])


def test_a_token_depends_on_no_later_token():
    net = tiny(window=3)
    params = drawn(net, ROWS)
    length = SEGMENT.shape[1]

    @jax.jit
    def jacobian(params):
        """Norms of d token_i / d position embedding_j, [i j]."""

        def tokens(table):
            changed = {**params, "embed": {**params["embed"], "position": {"embedding": table}}}
            (_, out), _ = net.apply(changed, {}, ROWS, train=False)
            return out["tokens"][1].sum(axis=-1) ** 2 + out["tokens"][1][:, 0]

        table = params["embed"]["position"]["embedding"]
        return jnp.abs(jax.jacobian(tokens)(table)).sum(axis=-1)

    found = np.asarray(jacobian(params))[:, :length]
    future = np.triu(np.ones((length, length), bool), 1)
    assert (found[future] == 0).all() and (found[~future] > 0).all()


@pytest.mark.parametrize("init", [0.02, 0.1])
def test_initial_values_are_those_of_gpt2_or_as_wide_as_is_said(init):
    options = {} if init == 0.02 else dict(init_std=init, tied=False)
    net = make_encoder("gpt2_tiny", vocab_size=500, depth=4, dim=64, **options)
    params, _ = jax.jit(net.init)(jax.random.key(0), ROWS)
    layer = params["layer3"]
    for values, std in (
        (params["embed"]["token"]["embedding"], init),
        (params["embed"]["position"]["embedding"], 0.01),
        (layer["attn"]["qkv"]["kernel"], init),
        (layer["mlp"]["fc1"]["kernel"], init),
        (layer["attn"]["proj"]["kernel"], init / np.sqrt(8)),
        (layer["mlp"]["fc2"]["kernel"], init / np.sqrt(8)),
    ):
        np.testing.assert_allclose(np.std(values), std, rtol=0.05)
        assert np.abs(values).max() > 2.5 * std  # not truncated
    if init != 0.02:
        np.testing.assert_allclose(np.std(params.pop("output")["embedding"]), init, rtol=0.05)
    assert set(params) == {"embed", "norm", *(f"layer{i}" for i in range(1, 5))}
    assert set(params["embed"]) == {"token", "position"}


def test_the_last_token_is_pooled_before_padding():
    net = tiny(pool="last")
    h, out = apply(net, drawn(net, ROWS), ROWS)
    np.testing.assert_array_equal(h[0], out["tokens"][0, 6])
    np.testing.assert_array_equal(h[1], out["tokens"][1, 8])
    assert POSITION[0, 6] == 3  # the last token of the second text
