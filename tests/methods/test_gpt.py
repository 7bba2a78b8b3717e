"""GPT's own facts: its loss, what it starts from, and how texts are kept apart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import config as config_lib
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec, Vocabulary, Weights
from ssl_jax.methods import gpt
from ssl_jax.views.next_token import next_tokens
from tests.methods import descent
from tests.methods.contract import loss_and_aux, views_of

BATCH, LENGTH, V, EOT = 16, 24, 40, 3
TINY = {
    "steps": 100,
    "method.name": "gpt",
    "method.chunk_size": 7,
    "model.name": "gpt2_tiny",
    "model.dim": 16,
    "model.depth": 1,
    "model.num_heads": 2,
    "model.max_length": LENGTH,
}


def spec(size=V, modality="text"):
    row, one = jax.ShapeDtypeStruct((LENGTH,), np.int32), jax.ShapeDtypeStruct((), np.int32)
    arrays = dict(tokens=row, segment=row, position=row, next_token=row, label=one, index=one)
    words = Vocabulary(size, pad=0, unk=1, cls=2, sep=EOT, mask=4, special=(0, 1, 2, 3, 4))
    return DataSpec(arrays=arrays, num_examples=1000, vocabulary=words, modality=modality)


def make(of=None, **overrides):
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    config = config_lib.apply(config_lib.base_config(), TINY)
    config = config_lib.resolve(config_lib.apply(config, changes))
    return gpt.make(config, of or spec(), 100)


def texts(n=BATCH, seed=0):
    """Rows of a stream, two texts each; some rows are not full."""
    rng = np.random.default_rng(seed)
    place = np.arange(LENGTH)
    tokens = rng.integers(5, V, (n, LENGTH + 1))
    cut = rng.integers(3, 9, (n, 1))
    tokens[:, 0] = EOT
    tokens[np.arange(n), cut[:, 0]] = EOT
    end = np.where(np.arange(n) % 4 == 0, 15, LENGTH)[:, None]
    real, second = place < end, place >= cut
    batch = {
        "tokens": np.where(real, tokens[:, :-1], 0),
        "next_token": np.where(real, tokens[:, 1:], -1),
        "segment": np.where(real, 1 + second, 0),
        "position": np.where(real, place - cut * second, 0),
        "index": np.arange(n),
        "label": np.full(n, -1),
    }
    return {name: x.astype(np.int32) for name, x in batch.items()}


@functools.partial(jax.jit, static_argnums=0)
def loss(method, params, batch):
    keys = jax.random.split(jax.random.key(0), len(batch["tokens"]))
    views = views_of(method, keys, batch)
    step = jnp.zeros((), jnp.int32)
    return loss_and_aux(method, Weights(params, {}), views, key=jax.random.key(1), step=step)


@functools.cache
def begun(**overrides):
    """A method and parameters that make confident predictions."""
    method = make(**overrides)
    params, buffers = jax.jit(method.init)(jax.random.key(0), texts())
    assert buffers == {}
    return method, jax.tree.map(lambda p: 8 * np.asarray(p), params)


@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_is_that_of_all_next_tokens(tied):
    method, params = begun(model__tied=tied)
    batch = texts()
    value, aux = loss(method, params, batch)
    rows = jax.jit(method.held_out)(Weights(params, {}), None, batch)
    tokens = np.float64(jax.jit(method.features)(Weights(params, {}), batch)["tokens"])
    table = params["encoder"]["embed"]["token"] if tied else params["encoder"]["output"]
    losses, hits = [], []
    for row in range(BATCH):
        for place in np.flatnonzero(batch["next_token"][row] >= 0):
            logits = np.float64(table["embedding"]) @ tokens[row, place]
            target = batch["next_token"][row, place]
            losses.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max())
            losses[-1] -= logits[target]
            hits.append(logits.argmax() == target)
    np.testing.assert_allclose(value, np.mean(losses), rtol=1e-5)
    assert aux.metrics.keys() == {"accuracy"}
    np.testing.assert_allclose(aux.metrics["accuracy"], np.mean(hits), rtol=1e-6)
    assert aux.weight == len(losses) == rows["count"].sum()
    np.testing.assert_allclose(rows["loss"].sum(), np.sum(losses), rtol=1e-5)
    assert rows["hits"].sum() == np.sum(hits)
    np.testing.assert_array_equal(rows["weights"], batch["next_token"] >= 0)
    np.testing.assert_array_equal(rows["previous"], batch["tokens"])


def test_the_first_loss_is_the_logarithm_of_the_vocabulary():
    method = make(spec(size=50_257))
    params, _ = jax.jit(method.init)(jax.random.key(0), texts())
    value, _ = loss(method, params, texts())
    np.testing.assert_allclose(value, np.log(50_257), atol=0.05)


def test_texts_of_a_row_have_the_losses_of_texts_in_rows_of_their_own():
    method, params = begun(model__across_texts=False)
    together, across = texts(), begun()[0]
    alone = []
    for number in (1, 2):
        row = {name: np.zeros_like(x) for name, x in together.items()}
        row["next_token"] -= 1
        for i in range(BATCH):
            (place,) = np.nonzero(together["segment"][i] == number)
            for name in ("tokens", "position", "next_token"):
                row[name][i, : len(place)] = together[name][i, place]
            row["segment"][i, : len(place)] = 1
        alone.append(row)
    held_out = jax.jit(lambda batch: method.held_out(Weights(params, {}), None, batch))
    single = [held_out(row) for row in alone]
    got = held_out(together)
    for name in ("count", "loss", "hits"):
        expected = single[0][name] + single[1][name]
        np.testing.assert_allclose(got[name], expected, rtol=1e-4, atol=1e-4, err_msg=name)
    # By default the second text sees the first.
    other = jax.jit(across.held_out)(Weights(params, {}), None, together)
    assert np.abs(other["loss"] - got["loss"]).max() > 0.1


def test_rows_without_next_tokens_predict_within_texts():
    batch = texts()
    following = batch.pop("next_token")
    got = next_tokens(batch)
    segment = batch["segment"]
    is_inside = np.zeros(segment.shape, bool)
    is_inside[:, :-1] = (segment[:, :-1] == segment[:, 1:]) & (segment[:, 1:] > 0)
    np.testing.assert_array_equal(got, np.where(is_inside, following, -1))
    np.testing.assert_array_equal(next_tokens(jax.tree.map(jnp.asarray, batch)), got)


@functools.cache
def descend(devices, micro_batch_size):
    """Metrics and parameters after a step of plain descent."""
    method = make()
    tx, first = descent.begin(method, texts())
    return descent.descend(
        method, tx, first, texts(), devices=devices, micro_batch_size=micro_batch_size
    )


@pytest.mark.parametrize(
    ("devices", "micro_batch_size"),
    [
        (1, 4),
        pytest.param(8, None, marks=pytest.mark.slow),
        pytest.param(8, 8, marks=pytest.mark.slow),
    ],
)
def test_devices_and_micro_batches_take_one_mean_over_all_tokens(devices, micro_batch_size):
    """Loss, metrics and the gradient, which is the step; rows differ in length."""
    expected, params = descend(1, None)
    metrics, other = descend(devices, micro_batch_size)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    for path, leaf in params.items():
        np.testing.assert_allclose(other[path], leaf, atol=2e-6, err_msg=path)


@pytest.mark.parametrize(
    ("of", "change", "message"),
    [
        (spec(modality="image"), {}, "gpt is for data of modality text"),
        (spec(), {"model__name": "bert_tiny"}, "'bert_tiny' does not predict the next token"),
        (spec(), {"model__max_length": 16}, "rows have 24 tokens but model.max_length is 16"),
    ],
)
def test_mistakes_are_named(of, change, message):
    with pytest.raises(UserError, match=message):
        make(of, **change)
