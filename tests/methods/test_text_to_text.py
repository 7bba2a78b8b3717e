"""Text-to-text fine-tuning: likelihoods of names, exact matches, and where they come from."""

import dataclasses

import jax
import numpy as np
import pytest

from ssl_jax import config as config_lib
from ssl_jax import data
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec, Vocabulary, Weights
from ssl_jax.methods import text_to_text
from ssl_jax.models.transformer import output_table
from tests.methods import table

V, LENGTH, EOT, CLS = 40, 12, 3, 2
NAMES = ((7, 8, 9), (7, 8), (11,))
TINY = {
    "steps": 100,
    "method.name": "text_to_text",
    "method.answer_length": 6,
    "model.name": "t5_tiny",
    "model.dim": 16,
    "model.depth": 1,
    "model.num_heads": 2,
    "model.head_dim": 8,
    "model.hidden_dim": 16,
}


def spec(**changes):
    row, one = jax.ShapeDtypeStruct((LENGTH,), np.int32), jax.ShapeDtypeStruct((), np.int32)
    arrays = dict(tokens=row, segment=row, position=row, type=row, label=one, index=one)
    words = Vocabulary(V, pad=0, unk=1, cls=CLS, sep=EOT, mask=4, special=(0, 1, 2, 3, 4))
    made = DataSpec(arrays, 1000, 3, vocabulary=words, modality="text", task="classify")
    return dataclasses.replace(made, **{"class_tokens": NAMES, **changes})


def make(of=None, **overrides):
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    config = config_lib.apply(config_lib.base_config(), TINY)
    config = config_lib.resolve(config_lib.apply(config, changes))
    return text_to_text.make(config, of or spec(), 100)


def texts():
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, V, (5, LENGTH))
    tokens[:, 0] = CLS
    real = np.arange(LENGTH) < np.array([[12], [7], [5], [12], [3]])
    zeros = np.zeros_like(tokens)
    batch = dict(tokens=np.where(real, tokens, 0), segment=real, position=zeros, type=zeros,
                 label=np.array([0, 1, 2, -1, 1]), index=np.arange(5))  # fmt: skip
    return {name: x.astype(np.int32) for name, x in batch.items()}


def test_predictions_are_likelihoods_of_whole_names():
    """Against the net applied to each text and each name alone, in float64."""
    method, batch = make(), texts()
    params, buffers = jax.jit(method.init)(jax.random.key(0), batch)
    assert buffers["answers"].tolist() == [
        [7, 8, 9, EOT, -1, -1], [7, 8, EOT, -1, -1, -1], [11, EOT, -1, -1, -1, -1],
    ]  # fmt: skip
    params = jax.tree.map(lambda p: 2 * np.asarray(p), params)
    net, w = params["encoder"], Weights(params, buffers)
    table_of_tokens = np.float64(output_table(net))
    found = jax.jit(method.features)(w, batch)
    rows = jax.jit(method.held_out)(w, None, batch)
    expected, exact, losses = np.zeros((5, 3)), np.zeros(5), np.zeros(5)
    apply = jax.jit(lambda net, text: method.encoder.apply(net, {}, text, train=False)[0][1])
    for c, name in enumerate(NAMES):
        answer = [*name, EOT]
        text = {
            "tokens": np.roll(batch["tokens"], -1, axis=1),
            "segment": np.roll(batch["segment"], -1, axis=1) * (np.arange(LENGTH) < LENGTH - 1),
            "written": np.tile(np.pad([0, *name], (0, 5 - len(name))), (5, 1)),
        }
        logits = np.float64(apply(net, text)["written"]) @ table_of_tokens.T
        log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        for i in range(5):
            expected[i, c] = sum(log_p[i, j, token] for j, token in enumerate(answer))
            if batch["label"][i] == c:
                losses[i] = -expected[i, c]
                exact[i] = all(log_p[i, j].argmax() == token for j, token in enumerate(answer))
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(rows["loss"], losses, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(rows["exact_hits"], exact)
    assert rows["exact_count"].tolist() == [1, 1, 1, 0, 1]
    assert rows["count"].tolist() == [4, 3, 2, 0, 3]


def test_names_are_those_of_the_data():
    config = table.ROWS["text-to-text"].load()
    source = data.from_config(config.data, seed=0)
    made = source.spec.class_tokens
    assert [source.tokenizer.decode(ids) for ids in made] == list(source.class_names)
    # A dry run does not know them, and a checkpoint restores them.
    unknown = dataclasses.replace(source.spec, class_tokens=None)
    method = text_to_text.make(config, unknown, 100)
    _, buffers = jax.eval_shape(method.init, jax.random.key(0), unknown.batch(2))
    assert buffers["answers"].shape == (len(made), 16)


@pytest.mark.parametrize(
    ("of", "change", "message"),
    [
        (spec(task="regress"), {}, "does not learn the task 'regress'"),
        (spec(task=None), {}, "has no task"),
        (spec(), {"method__answer_length": 3}, "name has 4 tokens .* set method.answer_length=4"),
        (spec(class_tokens=((1,), (7,), (1,))), {}, "classes 0 and 2 have the same tokens"),
        (spec(), {"model__name": "bert_tiny"}, "'bert_tiny' is no encoder-decoder"),
    ],
)
def test_mistakes_are_named(of, change, message):
    with pytest.raises(UserError, match=message):
        make(of, **change)
