"""Attention against plain loops, and what it runs on which device."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.errors import UserError
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

    mask = RNG.uniform(size=(N, 1, T, S)) < 0.6
    mask[..., 0] = True  # every query sees something
    masked = oracle(Q, K, V, lambda n, head, t, s: mask[n, 0, t, s])
    np.testing.assert_allclose(attention(Q, K, V, mask=mask), masked, rtol=1e-5, atol=1e-6)


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
    return types.SimpleNamespace(platform=platform, client=client, compute_capability=capability)


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
        ({"device": types.SimpleNamespace(platform="tpu")}, "xla"),
        ({"device": types.SimpleNamespace(platform="cpu")}, "xla"),
    ],
)
def test_the_fused_kernel_runs_where_it_can(changes, expected):
    case = dict(dtype=jnp.bfloat16, head_dim=64, lengths=(197, 197), masked=False, device=device())
    case |= changes
    query, key = (
        jax.ShapeDtypeStruct((8, length, 12, case["head_dim"]), case["dtype"])
        for length in case["lengths"]
    )
    chosen = choose_implementation(query, key, masked=case["masked"], device=case["device"])
    assert chosen == expected


def test_the_choice_reaches_jax(monkeypatch):
    taken = []
    monkeypatch.setattr(lib, "choose_implementation", lambda *_, masked: f"chosen {masked}")
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
