"""What methods of labelled texts compute, learn and refuse."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import data, optim, parallel
from ssl_jax.core import named_methods
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Weights
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment import train_step
from ssl_jax.experiment.build import Experiment
from ssl_jax.tasks import TASKS
from tests.marks import slow_unless
from tests.methods.contract import loss_and_aux, views_of
from tests.methods.table import ROWS

NAMES = ("supervised-text", "regression", "token-classification", "question-answering")
BATCH = 16
PLAIN = dict(model__dropout=0.0, method__head_dropout=0.0)


@functools.cache
def build(name, devices=1, **overrides):
    config = ROWS[name].load(**overrides)
    source = data.from_config(config.data, seed=0)
    mesh = parallel.make_mesh(devices=jax.devices()[:devices])
    return Experiment.build(config, source.spec, mesh), source


@functools.cache
def begun(name):
    """A method without dropout, parameters none of which is 0, and a batch."""
    experiment, source = build(name, **PLAIN)
    made, batch = experiment.method, source.batch(np.arange(BATCH))
    params, buffers = jax.jit(made.init)(jax.random.key(0), batch)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: np.asarray(p) + np.float32(0.1 * rng.normal(size=p.shape)), params
    )
    return made, params, buffers, batch


def logits_of(made, params, batch):
    """The head's outputs in float64, from the encoder's."""
    text = made.view.evaluate(batch)
    (_, out), _ = made.classifier.encoder.apply(params["encoder"], {}, text, train=False)
    head = jax.tree.map(lambda x: np.asarray(x, np.float64), params["head"])
    x = np.float64(out[made.classifier.reads])
    if "dense" in head:
        x = np.tanh(x @ head["dense"]["kernel"] + head["dense"]["bias"])
    return x @ head["out"]["kernel"] + head["out"]["bias"]


def surprise(logits, right):
    return np.log(np.exp(logits - logits.max()).sum()) - (logits - logits.max())[right]


def expected_loss(name, logits, batch):
    if name == "supervised-text":
        return np.mean([surprise(x, y) for x, y in zip(logits, batch["label"], strict=True)])
    if name == "regression":
        errors = [(x[0] - y) ** 2 for x, y in zip(logits, batch["target"], strict=True)]
        return np.mean([error for error in errors if not np.isnan(error)])
    losses = []
    for i, row in enumerate(logits):
        if name == "token-classification":
            places = np.flatnonzero(batch["tags"][i] >= 0)
            losses += [surprise(row[place], batch["tags"][i, place]) for place in places]
        else:
            places = [0, *np.flatnonzero(batch["context"][i])]
            ends = (surprise(row[places, k], places.index(batch["span"][i, k])) for k in (0, 1))
            losses.append(np.mean(list(ends)))
    return np.mean(losses)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_that_of_the_labels(name):
    made, params, buffers, batch = begun(name)
    views = views_of(made, jax.random.split(jax.random.key(0), BATCH), batch)

    def loss(params):
        return loss_and_aux(
            made, Weights(params, buffers), views, key=jax.random.key(1), step=jnp.zeros((), int)
        )

    value, aux = jax.jit(loss)(params)
    logits = logits_of(made, params, batch)
    np.testing.assert_allclose(value, expected_loss(name, logits, batch), rtol=1e-5)
    assert aux.outputs["h"].shape == (BATCH, 16)

    features = jax.jit(made.features)(Weights(params, buffers), batch)
    np.testing.assert_allclose(features["h"], aux.outputs["h"], rtol=1e-5, atol=1e-6)
    if name == "supervised-text":
        np.testing.assert_allclose(features["logits"], logits, rtol=1e-4, atol=1e-5)
    elif name == "regression":
        np.testing.assert_allclose(features["prediction"], logits[:, 0], rtol=1e-4, atol=1e-5)
        assert np.isnan(batch["target"]).any()
    elif name == "token-classification":
        np.testing.assert_array_equal(features["tags"], logits.argmax(axis=2))
    else:
        ends = np.stack([features["start"], features["end"]], axis=2)
        np.testing.assert_allclose(ends, logits, rtol=1e-4, atol=1e-5)
        assert (batch["span"][:, 1] == 0).any() and (batch["span"][:, 1] > 0).any()


def descend(name, devices, micro_batch_size):
    """Metrics and parameters after a step of plain descent."""
    experiment, source = build(
        name, devices, micro_batch_size=micro_batch_size, optimizer__name="sgd",
        optimizer__base_lr=1.0, optimizer__warmup_steps=0, optimizer__weight_decay=0.0, **PLAIN,
    )  # fmt: skip
    batch = source.batch(np.arange(BATCH))
    if name == "supervised-text":
        batch["label"][[1, 2, 3, 9]] = -1  # unevenly
    batch = parallel.to_global(batch, experiment.mesh, np.arange(BATCH), BATCH)
    with jax.set_mesh(experiment.mesh):
        state, metrics, _ = experiment.train_step(experiment.init_state(), batch)
    return metrics, by_path(state.params)


@pytest.mark.parametrize("name", slow_unless(NAMES[2].__eq__, NAMES))
def test_devices_and_micro_batches_take_one_mean_over_all_labels(name):
    expected, params = descend(name, 1, None)
    metrics, other = descend(name, 4, 8)
    for key, value in expected.items():
        np.testing.assert_allclose(metrics[key], value, rtol=2e-5, atol=1e-6, err_msg=key)
    for path, leaf in params.items():
        np.testing.assert_allclose(other[path], leaf, rtol=1e-4, atol=2e-6, err_msg=path)


LEAST = {
    "supervised-text": ("accuracy", 0.95),
    "regression": ("pearson", 0.8),
    "token-classification": ("entity_f1", 0.95),
    "question-answering": ("f1", 0.8),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", slow_unless(NAMES[3].__eq__, NAMES))
def test_it_learns_what_there_is_to_learn(name):
    """By the score of the task, from predictions to text; the metrics that are logged agree."""
    experiment, source = build(
        name, steps=120, batch_size=32, optimizer__name="adamw", optimizer__base_lr=5e-3,
        optimizer__warmup_steps=10, **PLAIN,
    )  # fmt: skip
    state, step = experiment.init_state(), experiment.train_step
    with data.batches(source, batch_size=32, seed=0, num_steps=120) as stream:
        for batch in stream:
            state, metrics, _ = step(state, batch)
    whole = source.batch(np.arange(len(source)))
    found = experiment.features(state.weights, whole)
    scores = TASKS[source.task].score(source, jax.device_get(found))
    score, least = LEAST[name]
    assert scores[score] > least, scores
    if name == "regression":
        assert metrics["mse"] < 0.09
    else:
        assert metrics["exact_spans" if name == NAMES[3] else "accuracy"] > 0.7


def test_a_frozen_encoder_stays_and_the_head_learns():
    experiment, source = build(NAMES[2], method__freeze_encoder=True)
    made, state = experiment.method, experiment.init_state()
    assert set(state.params) == {"head"}
    assert made.origin("buffers/frozen/encoder/embed/x") == "params/encoder/embed/x"
    batch = source.batch(np.arange(2))
    assert jax.jit(made.show)(state.weights, jax.random.split(jax.random.key(0), 2), batch) == {}
    before = jax.tree.map(np.asarray, state.buffers)
    head = jax.tree.map(np.asarray, state.params)
    state, _, _ = experiment.train_step(state, source.batch(np.arange(BATCH)))
    state, _, _ = experiment.train_step(state, source.batch(np.arange(BATCH)))
    for path, leaf in by_path(state.buffers).items():
        np.testing.assert_array_equal(leaf, by_path(before)[path], err_msg=path)
    assert all(np.any(x != by_path(head)[path]) for path, x in by_path(state.params).items())


@pytest.mark.slow
def test_dropout_stands_where_berts_and_robertas_do():
    """Every output differs between keys only if dropout is on, in the head alone as well."""
    for name, layers in ((NAMES[0], 1), (NAMES[1], 2)):
        experiment, source = build(name, model__dropout=0.0)
        made, batch = experiment.method, source.batch(np.arange(4))
        params, buffers = jax.jit(made.init)(jax.random.key(0), batch)
        x = made.view.evaluate(batch)
        outs = [
            made.forward(params, buffers, x, train=train, key=jax.random.key(key))[0][1]
            for train, key in ((True, 0), (True, 1), (False, 0), (False, 1))
        ]
        assert np.any(outs[0] != outs[1])
        np.testing.assert_array_equal(outs[2], outs[3])
        module = made.classifier.head.module
        assert module.dropout == 0.1 and module.dense == (layers == 2)


def test_parts_have_groups_and_the_preflight_names_the_head():
    plain, _ = build(NAMES[2])
    groups = {plain.method.param_group(path) for path in by_path(plain.abstract_state.params)}
    assert groups == {"embed", "layer1", "head"}
    said = [dict(build(name)[0].method.preflight(BATCH)) for name in NAMES]
    assert said[0]["head"] == "linear map on pool pooler, dropout 0.1"
    assert said[1]["head"] == "dense layer with tanh and linear map on pool cls, dropout 0.1"
    assert said[2]["head"] == said[3]["head"] == "linear map on every token, dropout 0.1"
    assert [one["loss"] for one in said] == [
        "cross-entropy of the labelled examples",
        "mean squared error",
        "cross-entropy of words",
        "cross-entropy of start and end",
    ]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (NAMES[0], {"method__name": "regression"},
         "method regression does not learn the task 'classify' of csv:.*method.name=supervised"),
        (NAMES[2], {"method__name": "supervised"},
         "does not learn the task 'tags' .* use method.name=token_classification"),
        (NAMES[3], {"method__head": "desne"}, "method.head is 'desne'; .*Did you mean 'dense'"),
        (NAMES[1], {"method__head_dropout": 1.0}, "method.head_dropout is 1.0; use a number"),
        (NAMES[2], {"model__pool": "pooler"}, "model.pool is .pooler., but the head of"),
        (NAMES[2], {"model__name": "resnet18"}, "model 'resnet18' does not read text"),
        (NAMES[2], {"model__max_length": 16}, "rows have 32 tokens but model.max_length is 16"),
        ("supervised", {"method__head": "dense"}, "method.head and method.head_dropout are"),
        ("bert", {"method__name": "question_answering"},
         "has no task, and method question_answering needs one; set data.options.task=span"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(name, change, message):
    row = ROWS[name]
    values = {key: value for key, value in change.items() if key != "method__name"}
    config = row.load().copy_and_resolve_references()
    with config.unlocked():
        if "method__name" in change:
            config.method = {"name": change["method__name"]}
        for key, value in values.items():
            section, _, last = key.partition("__")
            config[section][last] = value
    source = data.from_config(config.data, seed=0)
    with pytest.raises(UserError, match=message):
        named_methods.load(config, source.spec, 10)


def test_text_of_a_corpus_with_labels_is_classified_too():
    """Of the rows of a corpus, each its document's; the labels are no task's."""
    spec = dataclasses.replace(build(NAMES[0])[1].spec, task=None)
    made = named_methods.load(ROWS[NAMES[0]].load(), spec, 10)
    tx = optim.make_optimizer(
        {**ROWS[NAMES[0]].load().optimizer.to_dict(), "warmup_steps": 0},
        batch_size=8, total_steps=5, steps_per_epoch=5,
    )  # fmt: skip
    state = jax.eval_shape(train_step.make_init(made, tx), 0, spec.batch(8))
    assert state.params["head"]["out"]["kernel"].shape == (16, 2)
