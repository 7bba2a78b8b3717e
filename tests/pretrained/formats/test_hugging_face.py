"""BERT and RoBERTa in transformers' folders, without that library."""

import json

import jax
import numpy as np
import pytest

from ssl_jax import checkpoint, data, parallel
from ssl_jax import config as config_lib
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path
from ssl_jax.data.text import tokenizer
from ssl_jax.experiment.build import Experiment
from ssl_jax.models import make_encoder
from ssl_jax.models.layers import restack
from ssl_jax.pretrained import init_from, torch_models
from ssl_jax.pretrained.formats import hugging_face
from tests.commands import run
from tests.methods.table import ROWS
from tests.pretrained.formats.texts import BPE, CASES, TINY, WORDPIECE, perturbed, vocabulary_of


def through(case, module, params):
    """The parameters after they have gone out and in again, and the names not used."""
    vocabulary = vocabulary_of(CASES[case][0])
    state = hugging_face.to_hugging_face(params, module, vocabulary)
    config = hugging_face.description(module, vocabulary, params)
    return state, *hugging_face.from_hugging_face(state, config, module)


@pytest.mark.parametrize("case", CASES)
def test_out_and_in_again(case):
    module, params = perturbed(*CASES[case])
    _, arrays, unused = through(case, module, params)
    assert not unused
    wanted = by_path(params)
    arrays = restack(arrays, wanted)
    assert arrays.keys() == wanted.keys()
    for path, leaf in wanted.items():
        leaf = leaf.copy()
        if path.endswith("position/embedding"):
            leaf[: module.position_offset] = 0  # never used
        np.testing.assert_array_equal(arrays[path], leaf, err_msg=path)


def test_the_names_are_transformers():
    module, params = perturbed(*CASES["pairs"])
    state, _, _ = through("pairs", module, params)
    assert state["bert.embeddings.word_embeddings.weight"].shape == (60, 24)
    assert state["bert.encoder.layer.1.intermediate.dense.weight"].shape == (48, 24)
    key = state["bert.encoder.layer.1.attention.self.key.weight"]
    np.testing.assert_array_equal(
        key, params["encoder"]["layer2"]["attn"]["qkv"]["kernel"][:, 24:48].T
    )
    assert len(state) == 5 + 2 * 16 + 2 + 5 + 2
    assert all(x.dtype == np.float32 and x.flags.c_contiguous for x in state.values())
    config = hugging_face.description(module, WORDPIECE, params)
    assert config["architectures"] == ["BertForPreTraining"] and config["hidden_act"] == "gelu_new"
    assert (config["intermediate_size"], config["layer_norm_eps"]) == (48, 1e-12)
    assert config["max_position_embeddings"] == 20


def test_robertas_positions_stand_behind_its_padding():
    model, pairs = CASES["roberta"]
    module, params = perturbed(model, pairs)
    table = params["encoder"]["embed"]["position"]["embedding"]
    for vocabulary in (BPE, WORDPIECE):  # pad 1 as published, and 0
        state = hugging_face.to_hugging_face(params, module, vocabulary)
        rows = state["roberta.embeddings.position_embeddings.weight"]
        first = vocabulary.pad + 1
        assert rows.shape == (20 + first, 24)
        np.testing.assert_array_equal(rows[first:], table[2:])
        config = hugging_face.description(module, vocabulary, params)
        assert config["max_position_embeddings"] == len(rows)
        arrays, _ = hugging_face.from_hugging_face(state, config, module)
        np.testing.assert_array_equal(arrays["encoder/embed/position/embedding"][2:], table[2:])
        # Of a longer table, those that there is room for.
        short = make_encoder(**{**model, "max_length": 12}).module
        arrays, _ = hugging_face.from_hugging_face(state, config, short)
        np.testing.assert_array_equal(arrays["encoder/embed/position/embedding"][2:], table[2:14])


def test_names_of_other_classes_and_other_times():
    """BertModel's have no prefix; the first files had gamma and beta; products are stored too."""
    module, params = perturbed(*CASES["masked"])
    state = hugging_face.to_hugging_face(params, module, WORDPIECE)
    config = hugging_face.description(module, WORDPIECE, params)
    expected, _ = hugging_face.from_hugging_face(state, config, module)
    other = {}
    for name, x in state.items():
        name = name.removeprefix("bert.")
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        other[name.replace("LayerNorm.bias", "LayerNorm.beta")] = x
    other["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
    other["embeddings.position_ids"] = np.arange(20)
    other["classifier.weight"] = np.zeros((2, 24))
    got, unused = hugging_face.from_hugging_face(other, config, module)
    assert unused == ["classifier.weight"] and got.keys() == expected.keys()
    for path, x in expected.items():
        np.testing.assert_array_equal(got[path], x, err_msg=path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(model_type="gpt2"), "model_type 'gpt2'; weights of bert and roberta can be read"),
        (dict(model_type="roberta"), "weights of a roberta; use .* model.name=roberta_base"),
        (dict(hidden_act="relu"), "hidden_act 'relu' and"),
        (dict(position_embedding_type="relative_key"), "position_embedding_type 'relative_key'"),
        (
            dict(hidden_act="gelu", num_attention_heads=6),
            "another encoder; set model.activation=gelu model.num_heads=6",
        ),
        (dict(layer_norm_eps=1e-5), "set model.norm_eps=1e-05"),
    ],
)
def test_an_encoder_that_would_make_something_else_of_them_is_refused(changes, message):
    module, params = perturbed(*CASES["pairs"])
    config = hugging_face.description(module, WORDPIECE, params)
    hugging_face.check(config, module)
    with pytest.raises(UserError, match=message):
        hugging_face.check({**config, **changes}, module)


def test_robertas_head_has_one_gelu():
    module = make_encoder(**{**TINY, "name": "roberta_tiny"}, activation="gelu_tanh").module
    with pytest.raises(UserError, match="exact GELU in its head"):
        hugging_face.to_hugging_face({}, module, BPE)


# ------------------------------------------------------------------------------ runs and commands


def workdir_of(row, path, **overrides):
    """A run of the table as it is after three steps, its weights random. Returns its experiment."""
    config = ROWS[row].load(**overrides)
    source = data.from_config(config.data, seed=0)
    config = data.with_facts(config, source.spec)
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    experiment = Experiment.build(config, source.spec, mesh)
    state = experiment.init_state()
    rng = np.random.default_rng(0)
    noisy = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32), state.params)
    state = state.replace(params=jax.device_put(noisy, parallel.replicated(mesh)))
    path.mkdir()
    (path / "config.json").write_text(config_lib.to_json(config))
    with checkpoint.Checkpointer(path) as saves:
        saves.save(3, state, wait=True)
    return experiment, state


def assert_begins_with(begun, expected):
    for path, leaf in expected.items():
        np.testing.assert_array_equal(begun[path], leaf, err_msg=path)


def test_a_run_goes_out_by_the_command_and_comes_in(tmp_path):
    experiment, state = workdir_of("bert", tmp_path / "run")
    done = run(tmp_path / "run", f"--output={tmp_path}/out", "--to=hf", module="export")
    assert "arrays, step 3" in done.stdout
    missing = torch_models.missing("torch", "transformers", needed="BertModel")
    told = f"not compared with transformers: {missing}" if missing else "texts: tokens differ by"
    assert told in done.stdout
    assert "without the tokenizer" not in done.stdout
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt",
    }  # fmt: skip
    words = (tmp_path / "out" / "vocab.txt").read_text().split("\n")
    assert words[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] and words[-1] == ""
    assert len(words) - 1 == experiment.spec.vocabulary.size
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["mask_token"] == "[MASK]" and settings["model_max_length"] == 32
    # The tokenizer reads texts as the run's does.
    source = data.from_config(experiment.config.data, seed=0)
    again = tokenizer.load(f"{tmp_path}/out")
    assert again.vocabulary == source.cache.vocabulary
    # Scanned or not, it comes in again, heads and all.
    for scan_layers in (False, True):
        other = Experiment.build(
            ROWS["bert"].load(seed=7, model__scan_layers=scan_layers), experiment.spec
        )
        loaded, lines = init_from.load(f"{tmp_path}/out", other)
        assert len(lines) == 1 and "bert, " in lines[0], lines
        begun = by_path(other.init_state(loaded).params)
        assert_begins_with(restack(begun, by_path(state.params)), by_path(state.params))

    ours = tmp_path / "ours"
    run(tmp_path / "run", f"--output={ours}", "--to=safetensors", module="export")
    assert json.loads((ours / "config.json").read_text())["vocabulary"]["mask"] == 4


def test_a_run_of_scanned_layers_starts_one_of_unrolled_layers(tmp_path):
    experiment, state = workdir_of("roberta", tmp_path / "run")
    assert "encoder/layers/norm1/scale" in by_path(state.params)
    other = Experiment.build(ROWS["roberta"].load(model__scan_layers=False), experiment.spec)
    loaded, lines = init_from.load(str(tmp_path / "run"), other)
    assert len(lines) == 1, lines
    begun = by_path(other.init_state(loaded).params)
    assert_begins_with(begun, restack(by_path(state.params), begun))
    assert "encoder/layer2/norm1/scale" in begun
    # Of a longer table of positions the first are taken; a shorter one is fresh only if asked for.
    config = ROWS["roberta"].load(data__options__sequence_length=16, model__max_length=16)
    shorter = Experiment.build(config, data.from_config(config.data, seed=0).spec)
    loaded, lines = init_from.load(str(tmp_path / "run"), shorter)
    table = "encoder/embed/position/embedding"
    np.testing.assert_array_equal(loaded["params"][table], by_path(state.params)[table][:18])
    longer = Experiment.build(ROWS["roberta"].load(model__max_length=40), experiment.spec)
    with pytest.raises(UserError, match=r"has shape \(34, 16\), not \(42, 16\) .*max_length=32"):
        init_from.load(str(tmp_path / "run"), longer)
    longer.config.init_partial = True
    _, lines = init_from.load(str(tmp_path / "run"), longer)
    assert lines[1] == "not found: params/encoder/embed/position/embedding"


def test_what_does_not_fit_is_said_in_one_line(tmp_path):
    module, params = perturbed(*CASES["pairs"])
    hugging_face.write(str(tmp_path / "out"), params, module, WORDPIECE)
    digits = ROWS["supervised"].load()
    images = Experiment.build(digits, data.spec_from_config(digits.data))
    with pytest.raises(UserError, match="holds an encoder of text; convnet is none"):
        init_from.load(str(tmp_path / "out"), images)
    experiment, _ = workdir_of("bert", tmp_path / "run")
    with pytest.raises(UserError, match="set model.num_heads=3"):
        init_from.load(str(tmp_path / "out"), experiment)
    (tmp_path / "out" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has neither model.safetensors nor pytorch_model.bin"):
        init_from.load(str(tmp_path / "out"), experiment)
    (tmp_path / "out" / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json cannot be read"):
        init_from.load(str(tmp_path / "out"), experiment)
