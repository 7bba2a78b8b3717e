"""BERT's own facts: what it starts from, what it averages over, what it learns."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssl_jax import config as config_lib
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec, Vocabulary, Weights
from ssl_jax.experiment import train_step
from ssl_jax.methods import bert
from ssl_jax.models import count_parameters
from tests.methods import descent, paper_scale
from tests.methods.contract import loss_and_aux, views_of

BATCH, LENGTH, V = 16, 24, 40
VOCABULARY = Vocabulary(size=V, pad=0, unk=1, cls=2, sep=3, mask=4, special=(0, 1, 2, 3, 4))
TINY = {
    "steps": 100,
    "method.name": "bert",
    "model.name": "bert_tiny",
    "model.dim": 16,
    "model.depth": 1,
    "model.num_heads": 2,
    "model.max_length": LENGTH,
    "model.dropout": 0.0,
}


def spec(length=LENGTH, pairs=True, words=False):
    row, one = jax.ShapeDtypeStruct((length,), np.int32), jax.ShapeDtypeStruct((), np.int32)
    arrays = dict(tokens=row, segment=row, position=row, label=one, index=one)
    arrays |= dict(type=row, next=one) if pairs else {}
    arrays |= dict(word_start=jax.ShapeDtypeStruct((length,), np.bool_)) if words else {}
    return DataSpec(arrays=arrays, num_examples=1000, vocabulary=VOCABULARY, modality="text")


def make(of=None, **overrides):
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    config = config_lib.apply(config_lib.base_config(), TINY)
    config = config_lib.resolve(config_lib.apply(config, changes))
    return bert.make(config, of or spec(), 100)


def pairs(n=BATCH, seed=0):
    """Rows of one token over and over; B has another one where it is random. Lengths differ."""
    rng = np.random.default_rng(seed)
    place = np.arange(LENGTH)
    batch = {"index": np.arange(n), "next": rng.integers(0, 2, n), "label": np.full(n, -1)}
    end = rng.integers(8, LENGTH + 1, n)[:, None]
    cut = end // 2
    a = rng.integers(5, V, n)[:, None]
    b = np.where(batch["next"][:, None], 5 + (a - 5 + rng.integers(1, V - 5, (n, 1))) % (V - 5), a)
    tokens = np.where(place < cut, a, b)
    tokens[:, 0] = VOCABULARY.cls
    tokens = np.where((place == cut - 1) | (place == end - 1), VOCABULARY.sep, tokens)
    batch["tokens"] = np.where(place < end, tokens, VOCABULARY.pad)
    batch["segment"] = (place < end) * 1
    batch["position"] = np.where(place < end, place, 0)
    batch["type"] = ((place >= cut) & (place < end)) * 1
    return {name: x.astype(np.int32) for name, x in batch.items()}


def keys(n=BATCH, seed=0):
    return jax.random.split(jax.random.key(seed), n)


@functools.partial(jax.jit, static_argnums=0)
def mask(method, keys, batch):
    return views_of(method, keys, batch)


@functools.partial(jax.jit, static_argnums=0)
def loss(method, params, views):
    step = jnp.zeros((), jnp.int32)
    return loss_and_aux(method, Weights(params, {}), views, key=jax.random.key(1), step=step)


@functools.cache
def begun(**overrides):
    """A method and its first parameters, of which the biases are not 0."""
    method = make(**overrides)
    params, buffers = jax.jit(method.init)(jax.random.key(0), pairs())
    assert buffers == {}
    rng = np.random.default_rng(0)
    return method, jax.tree.map(
        lambda p: np.asarray(p) + np.float32(0.1 * rng.normal(size=p.shape)), params
    )


def test_the_loss_is_that_of_the_hidden_tokens_and_the_pairs():
    method, params = begun()
    batch = pairs()
    views = mask(method, keys(), batch)
    value, aux = loss(method, params, views)
    (h, out), _ = method.encoder.apply(params["encoder"], {}, views["text"], train=False)
    views = jax.tree.map(np.asarray, views)
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    tokens, table = np.float64(out["tokens"]), exact["encoder"]["embed"]["token"]["embedding"]
    head = exact["token_head"]
    losses, hits = [], []
    for i in range(BATCH):
        hidden = np.flatnonzero(views["text"]["tokens"][i] != batch["tokens"][i])
        places = views["positions"][i][views["weights"][i] > 0]
        assert set(hidden) <= set(places.tolist()) and len(places) >= 1
        for place in places:
            x = tokens[i, place] @ head["dense"]["kernel"] + head["dense"]["bias"]
            x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
            x = (x - x.mean()) / np.sqrt(x.var() + 1e-12)
            logits = table @ (x * head["norm"]["scale"] + head["norm"]["bias"]) + head["bias"]
            target = batch["tokens"][i, place]
            losses.append(np.log(np.exp(logits).sum()) - logits[target])
            hits.append(logits.argmax() == target)
    pooler = exact["encoder"]["pooler"]
    pooled = np.tanh(tokens[:, 0] @ pooler["kernel"] + pooler["bias"])
    head = exact["pair_head"]["dense"]
    logits = pooled @ head["kernel"] + head["bias"]
    of_pairs = np.log(np.exp(logits).sum(1)) - logits[np.arange(BATCH), batch["next"]]
    np.testing.assert_allclose(value, np.mean(losses) + np.mean(of_pairs), rtol=1e-5)
    expected = {
        "accuracy": np.mean(hits),
        "perplexity": np.exp(np.mean(losses)),
        "padding_share": np.mean(batch["segment"] == 0),
        "masked_loss": np.mean(losses),
        "next_loss": np.mean(of_pairs),
        "next_accuracy": np.mean(logits.argmax(1) == batch["next"]),
    }
    assert aux.metrics.keys() == expected.keys()
    for name, metric in expected.items():
        np.testing.assert_allclose(aux.metrics[name], metric, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(aux.outputs["h"], h, rtol=1e-5, atol=1e-6)


def test_the_first_loss_is_the_logarithm_of_the_vocabulary():
    words = Vocabulary(size=30522, pad=0, unk=100, cls=101, sep=102, mask=103,
                       special=(0, 100, 101, 102, 103))  # fmt: skip
    method = make(dataclasses.replace(spec(), vocabulary=words))
    params, _ = jax.jit(method.init)(jax.random.key(0), pairs())
    value, aux = loss(method, params, mask(method, keys(), pairs()))
    np.testing.assert_allclose(aux.metrics["masked_loss"], 10.32620, atol=0.05)
    np.testing.assert_allclose(value, 10.32620 + np.log(2), atol=0.06)


def test_logits_of_all_tokens_change_nothing():
    method, params = begun()
    everywhere, _ = begun(method__gather=False)
    batch = pairs()

    views = mask(everywhere, keys(), batch)
    assert views["targets"].shape == views["weights"].shape == (BATCH, LENGTH)
    value, aux = loss(everywhere, params, views)
    expected, expected_aux = loss(method, params, mask(method, keys(), batch))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for name, metric in expected_aux.metrics.items():
        np.testing.assert_allclose(aux.metrics[name], metric, rtol=1e-5, err_msg=name)


@functools.cache
def start_of_descent():
    """A method, plain descent, and the first state."""
    method = make()
    return method, *descent.begin(method, pairs())


@functools.cache
def descend(devices, micro_batch_size):
    """Metrics and parameters after a step of plain descent."""
    method, tx, first = start_of_descent()
    return descent.descend(
        method, tx, first, pairs(), devices=devices, micro_batch_size=micro_batch_size
    )


@pytest.mark.parametrize(
    ("devices", "micro_batch_size"),
    [
        (8, 8),
        pytest.param(8, None, marks=pytest.mark.slow),
        pytest.param(1, 4, marks=pytest.mark.slow),
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


def test_masks_drawn_beforehand_come_back():
    method = make(method__num_masks=2)
    batch = pairs()
    seen = [set() for _ in range(BATCH)]
    for seed in range(12):
        masked = np.asarray(mask(method, keys(seed=seed), batch)["text"]["tokens"])
        for i, row in enumerate(masked):
            seen[i].add(row.tobytes())
    assert {len(masks) for masks in seen} == {2}
    # They belong to the text, wherever it stands in a batch.
    order = np.roll(np.arange(BATCH), 3)
    moved = mask(method, keys(seed=5), {name: x[order] for name, x in batch.items()})
    for i, row in zip(order, np.asarray(moved["text"]["tokens"]), strict=True):
        assert row.tobytes() in seen[i]
    fresh = make()
    masks = {np.asarray(mask(fresh, keys(seed=s), batch)["positions"]).tobytes() for s in range(4)}
    assert len(masks) == 4


def test_whole_words():
    batch = pairs() | {"word_start": np.arange(LENGTH) % 3 == 1 + np.zeros((BATCH, 1), int)}
    method = make(spec(words=True), method__whole_words=True)
    views = mask(method, keys(), batch)
    taken = np.zeros((BATCH, LENGTH), bool)
    for i in range(BATCH):
        taken[i, views["positions"][i][views["weights"][i] > 0]] = True
    # Words are places 1-3, 4-6 and so on, without the special token that may stand in one.
    eligible = batch["tokens"] > 4
    for i in range(BATCH):
        for start in range(1, LENGTH, 3):
            word = slice(start, start + 3)
            if eligible[i, word].all():
                assert len(set(taken[i, word])) == 1


def test_roberta_has_neither_pairs_nor_types():
    of = spec(pairs=True)  # the data has them
    method = make(of, method__next_sentence=False, model__name="roberta_tiny")
    params, _ = jax.eval_shape(method.init, jax.random.key(0), pairs())
    assert set(params) == {"encoder", "token_head"} and "pooler" not in params["encoder"]
    assert params["encoder"]["embed"]["type"]["embedding"].shape == (1, 16)
    assert set(mask(method, keys(), pairs())["text"]) == {"tokens", "segment", "position"}
    assert method.max_predictions == 4


def test_held_out_scores_and_guesses_are_of_the_same_hidden_tokens():
    method, params = begun()
    batch = pairs()
    rows = jax.jit(method.held_out)(Weights(params, {}), keys(), batch)
    _, aux = loss(method, params, mask(method, keys(), batch))
    count = rows["count"].sum()
    np.testing.assert_array_equal(rows["count"], rows["weights"].sum(axis=1))
    np.testing.assert_allclose(rows["loss"].sum() / count, aux.metrics["masked_loss"], rtol=1e-5)
    np.testing.assert_allclose(rows["hits"].sum() / count, aux.metrics["accuracy"], rtol=1e-6)
    np.testing.assert_allclose(rows["next_hits"].mean(), aux.metrics["next_accuracy"])
    np.testing.assert_allclose(rows["next_loss"].mean(), aux.metrics["next_loss"], rtol=1e-5)

    guesses = jax.jit(method.guesses, static_argnames="count")
    shown = guesses(Weights(params, {}), keys(), batch, count=V)
    assert shown["guesses"].shape == (BATCH, method.max_predictions, V)
    np.testing.assert_allclose(shown["shares"].sum(axis=-1), 1, rtol=1e-5)
    assert (np.diff(shown["shares"], axis=-1) <= 0).all()
    hits = (shown["guesses"][..., 0] == rows["targets"]) * rows["weights"]
    np.testing.assert_array_equal(hits.sum(axis=1), rows["hits"])
    at_target = np.where(shown["guesses"] == rows["targets"][..., None], shown["shares"], 0)
    losses = -np.log(at_target.sum(axis=-1)) * rows["weights"]
    np.testing.assert_allclose(losses.sum(axis=1), rows["loss"], rtol=1e-4, atol=1e-5)


def test_features_are_the_mean_over_the_text():
    method, params = begun()
    batch = pairs()
    features = jax.jit(method.features)(Weights(params, {}), batch)
    assert set(features) == {"h", "tokens", "pooler"}
    assert features["tokens"].shape == (BATCH, LENGTH, 16)
    for i in range(BATCH):
        real = np.float64(features["tokens"][i])[batch["segment"][i] > 0]
        np.testing.assert_allclose(features["h"][i], real.mean(axis=0), rtol=1e-4, atol=1e-6)
    first, _ = begun(model__pool="cls")
    features = jax.jit(first.features)(Weights(params, {}), batch)
    np.testing.assert_array_equal(features["h"], features["tokens"][:, 0])


@pytest.mark.slow
def test_it_learns_what_there_is_to_learn():
    """A hidden token is its neighbours'; B follows A if it has A's token."""
    method = make(model__dim=32, model__num_heads=4)
    tx = optax.adam(optax.linear_schedule(0, 5e-3, 20))
    state = jax.jit(train_step.make_init(method, tx))(0, pairs(64))
    step = jax.jit(train_step.make_train_step(method, tx))
    for i in range(150):
        state, metrics, _ = step(state, pairs(64, seed=i))
    assert metrics["accuracy"] > 0.9 and metrics["next_accuracy"] > 0.9, metrics


def test_the_preflight_says_what_is_hidden():
    said = dict(make(method__num_masks=10, method__gather=False).preflight(BATCH))
    assert said["loss"] == "cross-entropy of masked tokens + next sentence"
    assert said["masking"] == (
        "15% of a row, rounded nearest, at most 4 of 24 tokens; 80% masked, 10% random, 10% kept; "
        "one of 10 masks of each text"
    )
    assert said["tokens"].startswith("384 a step, padding included; logits of 384 over 40 tokens")
    assert "logits of 64 over" in dict(make().preflight(BATCH))["tokens"]


@pytest.mark.parametrize(
    ("of", "change", "message"),
    [
        (dataclasses.replace(spec(), modality="image"), {}, "bert is for data of modality text"),
        (spec(pairs=False), {}, "needs pairs of texts: set data.options.rows=pairs"),
        (spec(), {"method__whole_words": True}, "set data.options.word_start=True"),
        (spec(), {"method__share_random": 0.3}, "0.8 and method.share_random 0.3 sum to more"),
        (spec(), {"method__max_predictions": 25}, "is 25; rows have 24 tokens"),
        (spec(), {"model__name": "resnet18"}, "model 'resnet18' does not read text"),
        (spec(), {"model__max_length": 16}, "rows have 24 tokens but model.max_length is 16"),
    ],
)
def test_mistakes_are_named(of, change, message):
    with pytest.raises(UserError, match=message):
        make(of, **change)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        ("bert.py:base", 110_106_428),
        ("bert.py:large_512", 336_226_108),
        ("roberta.py:base", 124_697_433),
        ("roberta.py:large", 355_412_057),
    ],
)
def test_the_models_have_the_papers_sizes(config, parameters):
    assert count_parameters(paper_scale.build(config).abstract_state.params) == parameters
