"""Runs with LoRA: what starts from them, and what others get of them."""

import json

import jax
import numpy as np
import pytest

import ssl_jax
from ssl_jax import config as config_lib
from ssl_jax import data
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import BASE
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment.build import Experiment
from ssl_jax.pretrained import export, formats, init_from
from tests.marks import slow_unless
from tests.methods.table import ROWS
from tests.pretrained.formats.test_hugging_face import workdir_of

ROW = "supervised-text-lora"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run with random adapters, and its features."""
    folder = tmp_path_factory.mktemp("lora") / "run"
    workdir_of(ROW, folder)
    return str(folder), ssl_jax.load(str(folder))


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("peft"))
    lines = list(export.export(finished[1], "peft", folder))
    assert "adapter_model.safetensors" in lines[0]
    return folder


def begun(source, run, row=ROW, **overrides):
    """(experiment, weights) of a run that starts from `source`; its lines for the user."""
    config = ROWS[row].load(**overrides)
    config = config.copy_and_resolve_references()
    config.data = run.config.data
    experiment = Experiment.build(config, data.spec_from_config(config.data), run.experiment.mesh)
    loaded, lines = init_from.load(source, experiment)
    return experiment, experiment.init_state(loaded).weights, lines


def logits(experiment, w, run):
    batch = data.from_config(run.config.data, seed=0).batch(np.arange(4))
    return np.asarray(experiment.features(w, batch)["logits"])


def random_adapters(w):
    return {path: x for path, x in by_path(w.params).items() if "/lora/" in path}


@pytest.mark.parametrize("kind", slow_unless(lambda kind: kind == "peft", ["run", "peft"]))
def test_what_starts_from_adapters(kind, finished, exported):
    source, run = finished[0] if kind == "run" else exported, finished[1]
    expected = logits(run.experiment, run.weights, run)
    own = random_adapters(run.weights)
    assert all(np.any(x != 0) for x in own.values())
    # The same adapters are loaded as they are.
    experiment, w, _ = begun(source, run)
    for path, x in random_adapters(w).items():
        np.testing.assert_array_equal(x, own[path], err_msg=path)
    for path, x in by_path(run.weights.buffers[BASE]).items():
        np.testing.assert_array_equal(x, by_path(w.buffers[BASE])[path], err_msg=path)
    np.testing.assert_allclose(logits(experiment, w, run), expected, atol=1e-5)
    # Others are new, beside the merged ones; so is a run without adapters.
    experiment, w, _ = begun(source, run, adapt__rank=4)
    assert not any(np.any(x) for path, x in random_adapters(w).items() if path.endswith("/b"))
    np.testing.assert_allclose(logits(experiment, w, run), expected, atol=2e-5)
    experiment, w, _ = begun(source, run, "supervised-text")
    assert not random_adapters(w)
    np.testing.assert_allclose(logits(experiment, w, run), expected, atol=2e-5)


def test_an_export_has_the_adapters_in_its_weights(finished, tmp_path):
    run = finished[1]
    list(export.export(run, "hf", str(tmp_path)))
    state = formats.read(str(tmp_path / "model.safetensors"))
    value = state["bert.encoder.layer.1.attention.self.value.weight"]
    base = run.weights.buffers[BASE]["encoder"]["layers"]["attn"]["qkv"]["kernel"][1]
    ab = run.weights.params["encoder"]["layers"]["attn"]["qkv"]["lora"]["value"]
    width = base.shape[0]
    expected = base[:, 2 * width :] + 16 / 2 * ab["a"][1] @ ab["b"][1]
    np.testing.assert_allclose(value, expected.T, atol=1e-5)


def test_the_files_of_an_adapter(exported):
    with open(f"{exported}/adapter_config.json", encoding="utf-8") as file:
        config = json.load(file)
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 2, 16.0)
    layer = "bert.encoder.layer.0.attention.self"
    assert {f"{layer}.query", f"{layer}.value"} <= set(config["target_modules"])
    assert len(config["target_modules"]) == 4
    assert config["modules_to_save"] == ["classifier"]
    state = formats.read(f"{exported}/adapter_model.safetensors")
    prefix = f"base_model.model.{layer}"
    assert state[f"{prefix}.query.lora_A.weight"].shape[0] == 2
    assert state[f"{prefix}.value.lora_B.weight"].shape[1] == 2
    assert "base_model.model.classifier.weight" in state
    assert len(state) == 8 + 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "has peft_type 'IA3'; only LORA is supported"),
        ({"use_dora": True}, "has use_dora True; only False is supported"),
        ({"rank_pattern": {"query": 4}}, "has rank_pattern .*; only {} is supported"),
        ({"r": None}, "cannot be read as the config of LoRA"),
        ({"base_model_name_or_path": "org/bert"}, "names the base model 'org/bert', which is no"),
    ],
)
def test_adapters_that_compute_something_else_are_refused(
    change, message, finished, exported, tmp_path
):
    with open(f"{exported}/adapter_config.json", encoding="utf-8") as file:
        config = {**json.load(file), **change}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message) as told:
        begun(str(tmp_path), finished[1])
    assert "\n" not in str(told.value)


def test_only_adapters_go_to_peft(tmp_path):
    experiment, state = workdir_of("supervised-text", tmp_path / "run")
    del experiment, state
    run = ssl_jax.load(str(tmp_path / "run"))
    with pytest.raises(UserError, match="--to=peft writes the LoRA adapters of BERT and RoBERTa"):
        list(export.export(run, "peft", str(tmp_path / "out")))
    assert run.merged() is run
    jax.block_until_ready(run.weights.params)


def test_a_config_takes_its_model_and_tokenizer_from_the_base_of_an_adapter(exported):
    config = config_lib.load("finetune:csv")
    changes = {"init_from": exported, "adapt.name": "lora", "adapt.rank": 2}
    config = config_lib.resolve(config_lib.apply(config, changes), changes)
    assert config.data.options.tokenizer == f"{exported}/base"
    assert (config.model.name.partition("_")[0], config.model.dim) == ("bert", 16)
