"""Heads are taken by the names of their classes, and encoders as a whole."""

import json

import jax
import numpy as np
import pytest

from ssl_jax import data, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment.build import Experiment
from ssl_jax.pretrained import formats, init_from
from ssl_jax.pretrained.formats import hugging_face, task_heads
from ssl_jax.pretrained.matching import Head, encoder_module, flat, match
from tests.methods.table import ROWS


def build(row, names=None, **overrides):
    config = ROWS[row].load(**overrides)
    source = data.from_config(config.data, seed=0)
    config = data.with_facts(config, source.spec, class_names=names)
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    return Experiment.build(config, source.spec, mesh)


def drawn(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape, np.float32), tree)


# ------------------------------------------------------------------------------ heads of classes

DIGITS = tuple("0123456789")


def taken(names_there, names_here, task=None, **changes):
    """(kernel there, what is loaded of it or None, notes)."""
    experiment = build("supervised", names_here)
    state = experiment.abstract_state
    there = flat({"params": drawn(state.params), "buffers": drawn(state.buffers)})
    there |= changes
    matched = match(there, experiment, "runs/x", Head(names_there, task))
    return there["params/head/kernel"], matched.loaded["params"].get("head/kernel"), matched


def test_the_classes_of_a_head_are_those_of_the_names():
    order = np.random.default_rng(1).permutation(10)
    names = [DIGITS[i] for i in order]
    kernel, loaded, matched = taken(names, DIGITS)
    for column, name in enumerate(names):
        np.testing.assert_array_equal(loaded[:, int(name)], kernel[:, column])
    assert matched.notes == ["the head's classes are reordered to match the data"]
    kernel, loaded, matched = taken(DIGITS, DIGITS)
    np.testing.assert_array_equal(loaded, kernel)
    assert not matched.notes and not matched.missing and not matched.unused


@pytest.mark.parametrize(
    ("names", "task", "reason"),
    [
        (
            tuple("abcdefghij"),
            None,
            "its classes are a, b, c, d, e, f, g, h, ... (10 classes)",
        ),
        (DIGITS, "tags", "its task is tags, and this run's is classify"),
        (DIGITS, "span", "its task is span, and this run's is classify"),
    ],
)
def test_a_head_of_other_classes_is_left_out_and_named(names, task, reason):
    _, loaded, matched = taken(names, DIGITS, task)
    assert loaded is None and "head/bias" not in matched.loaded["params"]
    (note,) = matched.notes
    assert note.startswith("the head is not loaded but initialised: ") and reason in note
    assert matched.loaded["params"]["encoder/stage1/kernel"] is not None
    assert not matched.missing and not matched.unused


def test_a_head_without_names_is_taken_by_number_if_the_count_fits():
    kernel, loaded, matched = taken(None, DIGITS)
    np.testing.assert_array_equal(loaded, kernel)
    assert matched.notes == [
        "the head's classes are matched by number: they have no names in the head"
    ]
    assert "in the head and in the data" in taken(None, None)[2].notes[0]
    fewer = {"params/head/kernel": kernel[:, :7], "params/head/bias": np.zeros(7, np.float32)}
    _, loaded, matched = taken(None, DIGITS, **fewer)
    assert loaded is None
    assert "it has 7 classes, and the data have 10" in matched.notes[0]


def test_a_frozen_head_of_other_classes_is_an_error():
    experiment = build("distill", DIGITS)
    there = {
        experiment.method.origin(path): np.ones(leaf.shape, np.float32)
        for path, leaf in flat({"buffers": experiment.abstract_state.buffers}).items()
        if experiment.method.origin(path)
    }
    assert any(path.startswith("params/head/") for path in there)
    match(there, experiment, "runs/teacher", Head(DIGITS[::-1]))
    with pytest.raises(UserError, match="init_from=runs/teacher: the head cannot be used: its cl"):
        match(there, experiment, "runs/teacher", Head(tuple("abcdefghij")))
    del there["params/head/bias"]
    with pytest.raises(UserError, match="params/head/bias is missing"):
        match(there, experiment, "runs/teacher", Head(DIGITS))


# ------------------------------------------------------------------------ folders of transformers


@pytest.fixture(scope="module")
def texts():
    """A classifier of texts, its weights, and the features of a batch with them."""
    experiment = build("supervised-text", ("no", "yes"))
    state = experiment.init_state()
    params = jax.tree.map(lambda x, noise: np.asarray(x + noise), state.params, drawn(state.params))
    source = data.from_config(experiment.config.data, seed=0)
    batch = source.batch(np.arange(16))
    margin = np.subtract(*logits(experiment, state.replace(params=params), batch).T)
    params["head"]["out"]["bias"] = params["head"]["out"]["bias"] - np.array(
        [np.median(margin), 0], np.float32
    )  # both classes are predicted
    return experiment, params, batch


def written(texts, folder, names, rows=None):
    """A folder of transformers of these weights, `rows` token embeddings."""
    experiment, params, _ = texts
    module, vocabulary = encoder_module(experiment), experiment.spec.vocabulary
    heads = task_heads.make(
        "bert", "classify", 2, pool="pooler", dense=False, dropout=0.1, class_names=names
    )
    hugging_face.write(str(folder), params, module, vocabulary, heads=heads)
    if rows is not None:
        path = str(folder / "model.safetensors")
        state = formats.read(path)
        table = state["bert.embeddings.word_embeddings.weight"]
        padded = np.concatenate([table, np.full((rows, table.shape[1]), 9, np.float32)])[:rows]
        formats.write_safetensors(path, {**state, "bert.embeddings.word_embeddings.weight": padded})
    return str(folder)


def logits(experiment, state, batch):
    return np.asarray(experiment.features(state.weights, batch)["logits"])


def test_a_folders_classes_are_predicted_by_name(texts, tmp_path):
    experiment, params, batch = texts
    blank = experiment.init_state()
    own = logits(experiment, blank.replace(params=params), batch)
    assert len(set(own.argmax(axis=1))) == 2
    for i, (names, columns) in enumerate(((["no", "yes"], [0, 1]), (["yes", "no"], [1, 0]))):
        loaded, lines = init_from.load(written(texts, tmp_path / str(i), names), experiment)
        got = logits(experiment, experiment.init_state(loaded), batch)
        np.testing.assert_allclose(got, own[:, columns], rtol=1e-4, atol=1e-5)
        assert len(lines) == 1 + i
    loaded, lines = init_from.load(written(texts, tmp_path / "2", ["neg", "pos"]), experiment)
    assert "head/out/kernel" not in loaded["params"]
    assert lines[1] == (
        "the head is not loaded but initialised: its classes are neg, pos, and those of the data "
        "are no, yes"
    )
    # Names that the library made up are none.
    loaded, lines = init_from.load(written(texts, tmp_path / "3", None), experiment)
    assert lines[1] == "the head's classes are matched by number: they have no names in the head"
    path = tmp_path / "3" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "id2label": {"1": "a", "2": "b"}}))
    with pytest.raises(UserError, match="id2label that does not count from 0"):
        init_from.load(str(tmp_path / "3"), experiment)


def test_token_embeddings_with_more_or_fewer_rows(texts, tmp_path):
    experiment, params, batch = texts
    size = experiment.spec.vocabulary.size
    own = logits(experiment, experiment.init_state().replace(params=params), batch)
    more = written(texts, tmp_path / "more", ["no", "yes"], rows=128)
    loaded, lines = init_from.load(more, experiment)
    assert lines[1] == (
        f"token embeddings: {size} of the 128 pretrained rows are loaded; this run's vocabulary "
        f"has {size}"
    )
    got = logits(experiment, experiment.init_state(loaded), batch)
    np.testing.assert_allclose(got, own, rtol=1e-4, atol=1e-5)

    fewer = written(texts, tmp_path / "fewer", ["no", "yes"], rows=50)
    loaded, lines = init_from.load(fewer, experiment)
    assert lines[1].startswith("token embeddings: 50 of the 50 pretrained rows are loaded; ")
    assert lines[1].endswith(", of which the others are initialised")
    table = "encoder/embed/token/embedding"
    begun, fresh = (by_path(experiment.init_state(x).params)[table] for x in (loaded, None))
    np.testing.assert_array_equal(begun[:50], by_path(params)[table][:50])
    np.testing.assert_array_equal(begun[50:], fresh[50:])


def test_another_tokenizer_is_refused(texts, tmp_path):
    experiment = texts[0]
    here = data.from_config(experiment.config.data, seed=0).tokenizer_json()
    parts = json.loads(here)
    vocabulary = parts["model"]["vocab"]
    first, second = (token for token, number in vocabulary.items() if number in (50, 51))
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    for there in (here, json.dumps(parts)):
        folder = written(texts, tmp_path / str(there == here), ["no", "yes"])
        with open(f"{folder}/tokenizer.json", "w") as file:
            file.write(there)
        if there == here:
            assert len(init_from.load(folder, experiment, here)[1]) == 1
            continue
        with pytest.raises(
            UserError, match=f"={folder} has another tokenizer: its token 50 is '.*', and"
        ):
            init_from.load(folder, experiment, here)


def test_an_encoder_of_more_layers_is_refused_unless_asked_for(texts, tmp_path):
    experiment, _, _ = texts
    folder = written(texts, tmp_path / "x", ["no", "yes"])
    path = f"{folder}/model.safetensors"
    state = formats.read(path)
    third = {
        name.replace(".layer.1.", ".layer.2."): x
        for name, x in state.items()
        if ".layer.1." in name
    }
    formats.write_safetensors(path, {**state, **third})
    with pytest.raises(UserError, match=r"encoder, which lacks bert.encoder.layer.2\.|has shape"):
        init_from.load(folder, experiment)


def test_an_encoder_that_lacks_an_array_is_refused_unless_asked_for(texts, tmp_path):
    experiment, _, _ = texts
    folder = written(texts, tmp_path / "x", ["no", "yes"])
    path, state = f"{folder}/model.safetensors", formats.read(f"{folder}/model.safetensors")

    def load(changes, experiment=experiment):
        kept = {name: x for name, x in (state | changes).items() if x is not None}
        formats.write_safetensors(path, kept)
        return init_from.load(folder, experiment)

    words, dense = "bert.embeddings.word_embeddings.weight", "bert.encoder.layer.1.output.dense."
    for changes, message in (
        ({words: None}, "params/encoder/embed/token/embedding is missing"),
        ({words: state[words][:, :8]}, r"token/embedding has shape \(\d+, 8\), not \(\d+, 16\)"),
        ({f"{dense}weight": None}, r"layers/mlp/fc2/kernel has shape \(1, 64, 16\), not \(2, "),
        (
            {f"{dense}weight": state[f"{dense}weight"][:, :8]},
            r"layer2/mlp/fc2/kernel has shape \(8, 16\), not \(64, 16\)",
        ),
        ({"bert.embeddings.LayerNorm.weight": None}, "params/encoder/embed/norm/scale is missing"),
    ):
        with pytest.raises(UserError, match=message) as told:
            load(changes)
        assert "--config.init_partial=True" in str(told.value) and "\n" not in str(told.value)
    config = experiment.config.copy_and_resolve_references()
    with config.unlocked():
        config.init_partial = True
    asked = Experiment.build(config, experiment.spec, experiment.mesh)
    _, lines = load({words: None}, asked)
    assert "not found: params/encoder/embed/token/embedding" in lines
    # A model of masked words alone has no pooler.
    _, lines = load({"bert.pooler.dense.weight": None, "bert.pooler.dense.bias": None})
    assert any("not found: params/encoder/pooler" in line for line in lines)
