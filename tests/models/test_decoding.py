"""Generation with a cache against the whole forward pass, and how tokens are chosen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.data.text.stop_strings import stop_automata
from ssl_jax.models import decoding, make_encoder
from ssl_jax.models.decoding import Sampling, Stops, choose, likely
from ssl_jax.models.transformer import output_table

V, END = 11, 3
LENGTHS = np.array([2, 7, 4], np.int32)
PROMPTS = np.random.default_rng(0).integers(4, V, (3, 7)).astype(np.int32)
GREEDY = Sampling(max_new_tokens=6, temperature=0.0)


@functools.cache
def model(**options):
    net = make_encoder(
        "gpt2_tiny", vocab_size=V, dim=16, depth=2, num_heads=2, max_length=16, **options
    )
    text = {name: jnp.zeros((1, 8), jnp.int32) for name in ("tokens", "segment", "position")}
    params, _ = jax.jit(net.init)(jax.random.key(1), text)
    return net.module, jax.tree.map(lambda p: 6 * np.asarray(p), params)


@functools.partial(jax.jit, static_argnames=("module", "sampling", "end"))
def generate(module, params, prompts, lengths, keys, stops=None, *, sampling, end=END):
    return decoding.generate(
        module, params, prompts, lengths, keys, sampling=sampling, end=end, stops=stops
    )


def keys(n=3):
    return jax.random.split(jax.random.key(5), n)


@pytest.mark.parametrize(
    "options", [dict(window=3, scan_layers=True, remat="dots", tied=False), dict(pre_norm=False)],
    ids=str,
)  # fmt: skip
def test_cached_log_probabilities_are_those_of_the_whole_text(options):
    """Prompts of different lengths; what pads them does not matter."""
    module, params = model(**options)
    found = generate(module, params, PROMPTS, LENGTHS, keys(), sampling=GREEDY, end=V)
    other = np.where(np.arange(7) < LENGTHS[:, None], PROMPTS, 5)
    again = generate(module, params, other, LENGTHS, keys(), sampling=GREEDY, end=V)
    np.testing.assert_array_equal(found.tokens, again.tokens)
    assert found.lengths.tolist() == [6, 6, 6]
    text = np.zeros((3, 13), np.int32)
    for row, length in enumerate(LENGTHS):
        text[row, :length] = PROMPTS[row, :length]
        text[row, length : length + 6] = found.tokens[row]
    batch = {
        "tokens": text,
        "segment": np.ones_like(text),
        "position": np.tile(np.arange(13), (3, 1)),
    }
    forward = jax.jit(lambda params: module.apply({"params": params}, batch, train=False)[1])
    tokens = forward(params)["tokens"]
    logits = np.einsum("nld,vd->nlv", np.float64(tokens), np.float64(output_table(params)))
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    for row, length in enumerate(LENGTHS):
        own = log_p[row, length - 1 : length + 5]
        np.testing.assert_array_equal(own.argmax(axis=1), found.tokens[row])
        np.testing.assert_allclose(
            found.log_probabilities[row], own[np.arange(6), found.tokens[row]], atol=1e-5
        )


def test_the_end_token_and_stop_strings_end_rows():
    module, params = model()
    free = generate(module, params, PROMPTS, LENGTHS, keys(), sampling=GREEDY, end=V)
    tokens = np.asarray(free.tokens)
    end = int(tokens[0, 2])  # of the first row, and perhaps of others
    ended = generate(module, params, PROMPTS, LENGTHS, keys(), sampling=GREEDY, end=end)
    for row in range(3):
        places = np.flatnonzero(tokens[row] == end)
        length = places[0] if len(places) else 6
        assert ended.lengths[row] == length
        np.testing.assert_array_equal(ended.tokens[row, :length], tokens[row, :length])
        assert (ended.tokens[row, length:] == end).all()
        assert (ended.log_probabilities[row, length + 1 :] == 0).all()
    contents = [bytes([97 + token]) for token in range(V)]
    stop = "".join(chr(97 + token) for token in tokens[1, 1:3])
    stops = Stops(*map(jnp.asarray, stop_automata(contents, ["zz", stop])))
    stopped = generate(module, params, PROMPTS, LENGTHS, keys(), stops, sampling=GREEDY, end=V)
    for row in range(3):
        text = "".join(chr(97 + token) for token in tokens[row])
        place = text.find(stop)
        assert stopped.lengths[row] == (6 if place < 0 else place + 2)


def test_draws_follow_the_probabilities_and_depend_on_the_own_key_only():
    logits = np.array([[2.0, 1.0, 0.0, -1.0]], np.float32)
    many = np.repeat(logits, 4000, axis=0)
    pick = jax.jit(choose, static_argnums=2)
    half = Sampling(temperature=0.5)
    drawn = np.asarray(pick(many, keys(4000), half))
    p = np.exp(logits[0] / 0.5) / np.exp(logits[0] / 0.5).sum()
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 4000, p, atol=0.025)
    np.testing.assert_array_equal(
        pick(many[:9], keys(4000)[:9], Sampling(temperature=0.5)), drawn[:9]
    )
    assert set(np.asarray(pick(many, keys(4000), Sampling(top_k=2))).tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (dict(top_k=2), {1, 3}),
        (dict(top_p=0.5), {3}),
        (dict(top_p=0.6), {1, 3}),
        (dict(top_p=0.95), {0, 1, 2, 3}),
        (dict(top_k=3, top_p=0.85), {0, 1, 3}),
        (dict(), {0, 1, 2, 3}),
    ],
    ids=str,
)
def test_the_most_likely_tokens_are_kept(options, kept):
    """Probabilities 0.15, 0.2, 0.1 and 0.55."""
    logits = np.log(np.array([[0.15, 0.2, 0.1, 0.55]], np.float32))
    found = np.asarray(likely(logits, **options))
    assert set(np.flatnonzero(np.isfinite(found[0])).tolist()) == kept
    np.testing.assert_array_equal(found[0, list(kept)], logits[0, list(kept)])


def test_automata_find_strings_in_any_tokens():
    rng = np.random.default_rng(0)
    contents = [b"", *(bytes(rng.choice(list(b"ab"), n)) for n in rng.integers(1, 4, 9))]
    strings = ["abab", "aab", "b", "bbabbab"]
    table, last = stop_automata(contents, strings)
    assert last.tolist() == [4, 3, 1, 7] and table.shape == (4, 8, 10)
    for _ in range(50):
        state, text = np.zeros(4, int), b""
        for token in rng.integers(0, 10, 12):
            state = table[np.arange(4), state, token]
            text += contents[token]
            assert [string.encode() in text for string in strings] == (state == last).tolist()
