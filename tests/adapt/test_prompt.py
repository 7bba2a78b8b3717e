"""Soft prompts: trained vectors in front of a text."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.adapt import prompt
from ssl_jax.adapt.prompt import HyperParameters, Prompt
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import BASE
from ssl_jax.core.tree_paths import by_path, join
from ssl_jax.models import decoding
from ssl_jax.models.decoding import Sampling
from tests.adapt.nets import TEXT, text_net
from tests.methods.test_methods import build, run

TOKENS = [4, 9, 6]


@pytest.mark.parametrize(
    ("causal", "pool"), [(False, "mean"), (False, "cls"), (True, "mean"), (True, "last")]
)
def test_vectors_that_are_embeddings_of_tokens_act_as_these_tokens(causal, pool):
    net = text_net(causal=causal, pool=pool, depth=1)
    params, _ = jax.jit(lambda: net.init(jax.random.key(0), TEXT))()
    vectors = params["embed"]["token"]["embedding"][jnp.array(TOKENS)]
    own = Prompt(HyperParameters(length=3), (), frozenset())
    apply = jax.jit(lambda p, text: net.apply(p, {}, text, train=False)[0])
    with own.active():
        h, out = jax.jit(lambda p: net.apply(p, {}, TEXT, train=False)[0])(
            join(params, {"embed": {"prompt": vectors}})
        )
    at = 0 if causal else 1
    insert = functools.partial(np.insert, obj=[at] * 3, axis=1)
    text = {
        "tokens": insert(TEXT["tokens"], values=TOKENS),
        "segment": insert(TEXT["segment"], values=1),
        "position": np.array([[0, 1, 2, 3, 4, 5, 6, 0]], np.int32),
    }
    _, expected = apply(params, text)
    tokens = np.delete(expected["tokens"], range(at, at + 3), axis=1)
    np.testing.assert_allclose(out["tokens"][:, :4], tokens[:, :4], atol=2e-6)
    pooled = {
        "mean": tokens[:, :4].mean(axis=1),
        "cls": expected["tokens"][:, 0],
        "last": tokens[:, 3],
    }
    np.testing.assert_allclose(h, pooled[pool], atol=2e-6)
    assert out["layer1"].shape == (1, 5, 8)


@pytest.mark.parametrize("scan", [False, True])
def test_text_is_generated_behind_the_vectors(scan):
    """As behind these tokens, with the cache of keys and values."""
    net = text_net(causal=True, scan_layers=scan, max_length=16)
    params, _ = jax.jit(lambda: net.init(jax.random.key(0), TEXT))()
    params = jax.tree.map(lambda x: 20 * x, params)
    vectors = params["embed"]["token"]["embedding"][jnp.array(TOKENS)]
    own = Prompt(HyperParameters(length=3), (), frozenset())
    prompts, lengths = jnp.array([[2, 7, 1], [3, 0, 0]]), jnp.array([3, 1])
    keys = jax.random.split(jax.random.key(1), 2)
    greedy = Sampling(max_new_tokens=5, temperature=0.0)
    write = functools.partial(decoding.generate, net.module, keys=keys, sampling=greedy, end=99)
    with own.active():
        got = jax.jit(lambda p: write(p, prompts, lengths))(
            join(params, {"embed": {"prompt": vectors}})
        )
    behind = jnp.concatenate([jnp.tile(jnp.array(TOKENS), (2, 1)), prompts], axis=1)
    expected = jax.jit(lambda p: write(p, behind, lengths + 3))(params)
    np.testing.assert_array_equal(got.tokens, expected.tokens)
    np.testing.assert_allclose(got.log_probabilities, expected.log_probabilities, atol=1e-4)
    alone = jax.jit(lambda p: write(p, prompts, lengths))(params)
    assert np.any(np.asarray(alone.log_probabilities) != np.asarray(got.log_probabilities))


def test_only_the_first_text_of_a_row_moves_on():
    text = {
        "tokens": jnp.arange(5)[None], "segment": jnp.array([[1, 1, 2, 2, 0]]),
        "position": jnp.array([[0, 1, 0, 1, 0]]), "type": jnp.array([[1, 1, 0, 0, 0]]),
    }  # fmt: skip
    got = prompt.with_places(text, 1, 2)
    assert got["tokens"].tolist() == [[0, 0, 0, 1, 2, 3, 4]]
    assert got["segment"].tolist() == [[1, 1, 1, 1, 2, 2, 0]]
    assert got["position"].tolist() == [[0, 1, 2, 3, 0, 1, 0]]
    assert got["type"].tolist() == [[1, 1, 1, 1, 0, 0, 0]]


def tuned(**options):
    options = {"name": "prompt", "length": 3, **options}
    adapt = {f"adapt__{name}": x for name, x in options.items()}
    return build("supervised-text", model__max_length=40, **adapt)


def test_only_the_vectors_and_the_head_are_trained():
    experiment, source = tuned()
    first = experiment.init_state()
    table = first.buffers[BASE]["encoder"]["embed"]["token"]["embedding"]
    vectors = first.params["encoder"]["embed"]["prompt"]
    assert all(np.any(np.all(row == table, axis=1)) for row in vectors)
    assert sorted(path.partition("/")[0] for path in by_path(first.params)) == [
        "encoder", "head", "head"
    ]  # fmt: skip
    state, _ = run(experiment, source, 2)
    for path, x in by_path(first.buffers[BASE]).items():
        np.testing.assert_array_equal(x, by_path(state.buffers[BASE])[path], err_msg=path)
    assert np.any(state.params["encoder"]["embed"]["prompt"] != vectors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 9}, "with the 32 tokens of a text that is more than model.max_length=40"),
        ({"length": 0}, "adapt.length is 0; use a"),
        ({"net": "head"}, "adapt.name=prompt is for text encoders, and head is none"),
    ],
)
def test_bad_options_are_said_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as told:
        tuned(**options)
    assert "\n" not in str(told.value)


def test_a_prompt_is_not_merged_into_weights():
    experiment, _ = tuned()
    with pytest.raises(UserError, match="cannot compute the same"):
        experiment.method.adapters.merge({})
