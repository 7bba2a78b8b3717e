"""Attention against plain loops, and what it runs on which device."""

import contextlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import hlo, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.hardware import tpu
from ssl_jax.models import attention as lib
from ssl_jax.models.attention import attention, choose_implementation

RNG = np.random.default_rng(0)
N, T, S, HEADS, D = 2, 5, 7, 3, 4
Q = RNG.normal(size=(N, T, HEADS, D)).astype(np.float32)
K, V = (RNG.normal(size=(N, S, HEADS, D)).astype(np.float32) for _ in range(2))


def oracle(q, k, v, seen):
    """seen(n, head, t, s) says whether query t looks at key s."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    for n in range(q.shape[0]):
        for head in range(q.shape[2]):
            for t in range(q.shape[1]):
                keys = [s for s in range(k.shape[1]) if seen(n, head, t, s)]
                logits = [q[n, t, head] @ k[n, s, head] / np.sqrt(q.shape[3]) for s in keys]
                weights = np.exp(logits) / np.sum(np.exp(logits))
                out[n, t, head] = sum(w * v[n, s, head] for w, s in zip(weights, keys, strict=True))
    return out


def test_every_query_looks_at_every_key():
    expected = oracle(Q, K, V, lambda *_: True)
    np.testing.assert_allclose(attention(Q, K, V), expected, rtol=1e-5, atol=1e-6)


def test_causal_and_masked():
    causal = oracle(Q, K[:, :T], V[:, :T], lambda n, head, t, s: s <= t)
    actual = attention(Q, K[:, :T], V[:, :T], causal=True)
    np.testing.assert_allclose(actual, causal, rtol=1e-5, atol=1e-6)
    banded = oracle(Q, K[:, :T], V[:, :T], lambda n, head, t, s: t - 2 < s <= t)
    actual = attention(Q, K[:, :T], V[:, :T], causal=True, window=2)
    np.testing.assert_allclose(actual, banded, rtol=1e-5, atol=1e-6)

    mask = RNG.uniform(size=(N, 1, T, S)) < 0.6
    mask[..., 0] = True  # every query sees something
    masked = oracle(Q, K, V, lambda n, head, t, s: mask[n, 0, t, s])
    np.testing.assert_allclose(attention(Q, K, V, mask=mask), masked, rtol=1e-5, atol=1e-6)


def test_segments_are_kept_apart():
    segment = np.array([[1, 1, 2, 2, 0], [1, 2, 2, 2, 3]])
    k, v = K[:, :T], V[:, :T]
    expected = oracle(Q, k, v, lambda n, head, t, s: segment[n, t] == segment[n, s])
    np.testing.assert_allclose(attention(Q, k, v, segment=segment), expected, rtol=1e-5, atol=1e-6)

    mask = RNG.uniform(size=(N, 1, T, T)) < 0.7
    mask |= np.eye(T, dtype=bool)
    both = oracle(
        Q,
        k,
        v,
        lambda n, head, t, s: segment[n, t] == segment[n, s] and s <= t and mask[n, 0, t, s],
    )
    actual = attention(Q, k, v, segment=segment, mask=mask, causal=True)
    np.testing.assert_allclose(actual, both, rtol=1e-5, atol=1e-6)


def test_dropout_thins_the_weights_and_keeps_their_mean():
    segment = np.array([[1, 1, 2, 2, 0], [1, 2, 2, 2, 3]])
    k, v = K[:, :T], V[:, :T]
    options = dict(segment=segment, causal=True)
    whole = attention(Q, k, v, **options)

    def drop(key):
        return attention(Q, k, v, **options, dropout=0.25, dropout_key=key)

    keys = jax.random.split(jax.random.key(0), 1000)
    draws = np.asarray(jax.jit(jax.vmap(drop))(keys))
    # A token alone in its segment has one weight, 1, which is either 0 or 4/3.
    alone = draws[:, 1, 0, 0, :] / v[1, 0, 0]
    np.testing.assert_allclose(np.minimum(abs(alone), abs(alone - 4 / 3)), 0, atol=1e-5)
    np.testing.assert_allclose((alone[:, 0] == 0).mean(), 0.25, atol=3 * 0.433 / 1000**0.5)
    spread = draws.std(axis=0) / 1000**0.5
    assert (abs(draws.mean(axis=0) - whole) < 5 * spread + 1e-5).all()
    with pytest.raises(UserError, match="attention 'splash' has no dropout; .*to 'xla'"):
        attention(Q, k, v, dropout=0.1, dropout_key=keys[0], implementation="splash")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "tensor", "causal", "window"),
    [
        (1, 1, False, None),
        (2, 1, False, None),
        (2, 2, False, None),
        (1, 1, True, None),
        (4, 2, True, None),
        (1, 1, True, 50),
    ],
)
def test_the_tpu_kernel_equals_xla_in_value_and_gradient(devices, tensor, causal, window):
    """Interpreted, in float32; two tiles, of two texts and padding."""
    rng = np.random.default_rng(0)
    q, k, v, weight = rng.normal(size=(4, 2, 256, 2, 8)).astype(np.float32)
    segment = np.repeat([[1, 2, 0], [1, 1, 2]], (100, 93, 63), axis=1).astype(np.int32)
    options = dict(segment=segment, causal=causal, window=window)

    def loss(which, q, k, v):
        if which == "splash":
            y = lib._splash(q, k, v, mask=None, **options, interpret=True)
        else:
            y = attention(q, k, v, **options, implementation="xla")
        return jnp.sum(jnp.where(segment[..., None, None] > 0, y * weight, 0))

    mesh = parallel.make_mesh(tensor=tensor, devices=jax.devices()[:devices])
    with jax.set_mesh(mesh), pytest.MonkeyPatch.context() as patch:
        patch.setattr(lib, "_TILES", (128,))
        got, expected = (
            jax.jit(jax.value_and_grad(loss, (1, 2, 3)), static_argnums=0)(which, q, k, v)
            for which in ("splash", "xla")
        )
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-4)
    for a, b in zip(got[1], expected[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_each_device_of_the_axis_tensor_computes_its_own_heads():
    """Also if the arrays arrive whole, as the columns of queries, keys and values do."""
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 2, 64, 4, 16)).astype(np.float32)
    compiled, results = {}, {}
    for tensor in (1, 4):
        mesh = parallel.make_mesh(tensor=tensor, devices=jax.devices()[:tensor])
        whole = parallel.replicated(mesh)
        with jax.set_mesh(mesh):
            program = jax.jit(attention, in_shardings=whole, out_shardings=whole)
            compiled[tensor] = hlo.read(program.lower(q, k, v).compile()).flops
            results[tensor] = program(*jax.device_put((q, k, v), whole))
    np.testing.assert_allclose(results[4], results[1], rtol=1e-5, atol=1e-6)
    assert compiled[1] >= 4 * 2 * 64 * 64 * 4 * 16  # two products of 2 rows
    assert compiled[4] <= compiled[1] / 4 * 1.05


def test_what_the_tpu_kernel_cannot_do_is_said():
    with pytest.raises(UserError, match="got 5 and 7; set model.attention to 'xla'"):
        attention(Q, K, V, implementation="splash")


@pytest.mark.skipif(not tpu.is_installed(), reason="libtpu is not installed")
@pytest.mark.parametrize("length", [512, 128])
def test_a_program_for_tpus_gets_the_kernel_by_itself(length):
    """Forwards and backwards, on a machine without a TPU; short texts stay with XLA."""
    mesh = parallel.make_mesh(devices=tpu.devices("v5e:2x2"))
    rows = parallel.batch_sharding(mesh)
    x = jax.ShapeDtypeStruct((8, length, 2, 64), jnp.bfloat16, sharding=rows)
    segment = jax.ShapeDtypeStruct((8, length), jnp.int32, sharding=rows)

    def loss(q, k, v, segment):
        return jnp.sum(attention(q, k, v, segment=segment).astype(jnp.float32) ** 2)

    with jax.set_mesh(mesh), tpu.quiet():
        text = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x, segment).compile().as_text()
    assert text.count("tpu_custom_call") == (2 if length == 512 else 0)
    assert "all-gather" not in text


def test_bfloat16_takes_its_softmax_in_float32():
    """Logits of about 100 apart by 0.1: in bfloat16 they would be the same number."""
    d = 64
    q = np.full((1, 1, 1, d), 10.0, np.float32)
    k = np.full((1, 2, 1, d), 1.25, np.float32)
    k[0, 1, 0, 0] -= 0.0625
    v = np.array([0.0, 1.0], np.float32).reshape(1, 2, 1, 1) * np.ones(d, np.float32)
    expected = oracle(q, k, v, lambda *_: True)
    assert 0.45 < expected[0, 0, 0, 0] < 0.49
    half = attention(*(jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(half, np.float64), expected, atol=2e-3)


def device(platform="gpu", version="PJRT C API\ncuda 12090", capability="9.0"):
    client = types.SimpleNamespace(platform_version=version)
    return types.SimpleNamespace(
        platform=platform, client=client, compute_capability=capability, device_kind="NVIDIA"
    )


TPU = types.SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")
CPU = types.SimpleNamespace(platform="cpu", device_kind="cpu")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "cudnn"),
        ({"dtype": jnp.float16}, "cudnn"),
        ({"device": device(capability="8.0")}, "cudnn"),
        ({"device": device(capability="10.3")}, "cudnn"),  # not a decimal number
        ({"masked": True, "lengths": (196, 512)}, "cudnn"),
        ({"masked": True}, "xla"),  # 197 tokens: a masked gradient needs even lengths
        ({"dtype": jnp.float32}, "xla"),
        ({"head_dim": 60}, "xla"),
        ({"head_dim": 256}, "xla"),
        ({"device": device(capability="7.5")}, "xla"),  # Turing
        ({"device": device(version="rocm 60300")}, "xla"),
        ({"segmented": True}, "xla"),
        ({"segmented": True, "lengths": (512, 512)}, "cudnn"),
        ({"device": CPU, "segmented": True, "lengths": (512, 512)}, "xla"),
        ({"device": TPU}, "xla"),
    ],
)
def test_the_fused_kernel_runs_where_it_can(changes, expected):
    case = dict(dtype=jnp.bfloat16, head_dim=64, lengths=(197, 197), device=device())
    case |= dict(masked=False, segmented=False) | changes
    query, key = (
        jax.ShapeDtypeStruct((8, length, 12, case["head_dim"]), case["dtype"])
        for length in case["lengths"]
    )
    flags = {name: case[name] for name in ("masked", "segmented", "device")}
    assert choose_implementation(query, key, **flags) == expected


@pytest.mark.parametrize(
    ("mesh", "changes", "expected"),
    [
        ({"data": 8}, {}, "splash"),
        ({"data": 4, "tensor": 2}, {}, "splash"),
        ({"tensor": 8}, {}, "xla"),  # 12 heads
        (None, {}, "xla"),  # eight devices, and no word of how rows are split over them
        ({"data": 8}, {"masked": True}, "xla"),
        ({"data": 8}, {"segmented": False}, "xla"),
        ({"data": 8}, {"segmented": False, "causal": True}, "splash"),
        ({"data": 8}, {"dtype": jnp.float32}, "xla"),
        ({"data": 8}, {"lengths": (128, 128)}, "xla"),
        ({"data": 8}, {"lengths": (512, 1024)}, "xla"),
        ({"data": 8}, {"rows": 1}, "xla"),  # of which a net is initialised
    ],
)
def test_the_tpu_kernel_runs_where_it_can(mesh, changes, expected):
    case = dict(
        dtype=jnp.bfloat16, lengths=(512, 512), masked=False, segmented=True, causal=False, rows=8
    )  # fmt: skip
    case |= changes
    query, key = (
        jax.ShapeDtypeStruct((case["rows"], length, 12, 64), case["dtype"])
        for length in case["lengths"]
    )
    flags = {name: case[name] for name in ("masked", "segmented", "causal")}
    with jax.set_mesh(parallel.make_mesh(**mesh)) if mesh else contextlib.nullcontext():
        assert choose_implementation(query, key, **flags, device=TPU) == expected


def test_the_choice_reaches_jax(monkeypatch):
    taken = []
    monkeypatch.setattr(
        lib, "choose_implementation", lambda *_, masked, segmented, causal: f"chosen {masked}"
    )
    monkeypatch.setattr(
        jax.nn,
        "dot_product_attention",
        lambda *_, implementation, **__: taken.append(implementation),
    )
    attention(Q, K, V)
    attention(Q, K, V, mask=np.ones((1, 1, T, S), bool))
    attention(Q, K, V, implementation="xla")
    assert taken == ["chosen False", "chosen True", "xla"]


def test_an_unknown_implementation_is_named():
    with pytest.raises(UserError, match=r"unknown attention 'cudn'; .*Did you mean 'cudnn'\?"):
        attention(Q, K, V, implementation="cudn")
