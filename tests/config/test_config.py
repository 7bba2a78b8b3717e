"""Unknown keys, the length of a run, and configs that survive a round trip."""

import json
import pathlib

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from ssl_jax import config as config_lib
from ssl_jax import data
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec
from tests.config.tiny_nets import name_net

ROOT = pathlib.Path(__file__).parents[2]


def example(**changes):
    config = config_lib.base_config()
    config.epochs = 10.0
    config.update(changes)
    return config


def test_a_default_config_resolves_and_is_locked():
    config = config_lib.resolve(example())
    with pytest.raises(AttributeError):
        config.batchsize = 3


@pytest.mark.parametrize(
    ("path", "near"),
    [("bach_size", "batch_size"), ("optimizer.base_learning", "base_lr"), ("eval.kn", "knn")],
)
def test_an_unknown_key_names_the_nearest(path, near):
    config = example()
    section, _, key = path.rpartition(".")
    node = config[section] if section else config
    node[key] = 1
    with pytest.raises(UserError, match=rf"unknown config key {path};.*{near}"):
        config_lib.resolve(config)


def test_a_section_in_place_of_a_value_and_back():
    config = ConfigDict({**example().to_dict(), "seed": {}})
    with pytest.raises(UserError, match="seed is {}; use a whole number"):
        config_lib.resolve(config)
    config = ConfigDict({**example().to_dict(), "mesh": 3})
    with pytest.raises(UserError, match="mesh is 3; it has to be a section"):
        config_lib.resolve(config)


def test_setting_steps_clears_epochs_and_back():
    config = example()
    config.steps = 7
    resolved = config_lib.resolve(config, {"steps": 7})
    assert resolved.epochs is None and resolved.steps == 7
    config = config_lib.base_config()
    config.steps = 100
    config.epochs = 2.5
    assert config_lib.resolve(config, {"epochs": 2.5}).steps is None
    with pytest.raises(UserError, match="exactly one of epochs and steps"):
        config_lib.resolve(config, {"steps": 1, "epochs": 2.0})
    with pytest.raises(UserError, match="exactly one of epochs and steps"):
        config_lib.resolve(config_lib.base_config())


def test_lengths():
    config = example(batch_size=100, epochs=2.5)
    config.eval.every_epochs = 1.0
    config.checkpoint.every_epochs = 0.5
    length = config_lib.Length.of(config_lib.resolve(config), 10)
    assert length == config_lib.Length(
        steps_per_epoch=10, total_steps=25, eval_every=10, checkpoint_every=5
    )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"dtype": "float16"}, "dtype is 'float16'; use one of float32, bfloat16"),
        ({"epochs": -1.0}, "epochs is -1.0; use a number above 0"),
        ({"profile_steps": (1, 2, 3)}, "profile_steps"),
    ],
)
def test_bad_values(changes, match):
    with pytest.raises(UserError, match=match):
        config_lib.resolve(example(**changes))


def variants():
    for name in config_lib.names():
        module, _ = config_lib.load_module(name)
        if hasattr(module, "get_config") and not hasattr(module, "get_sweep"):
            for variant in module.VARIANTS:
                yield f"{name}:{variant}"


@pytest.mark.parametrize("source", list(variants()))
def test_every_shipped_config_resolves_and_survives_json(source):
    config = config_lib.load(source)
    name_net(config, source.partition(":")[2])
    resolved = config_lib.resolve(config)
    text = config_lib.to_json(resolved)
    json.loads(text)
    again = config_lib.from_json(text)
    assert again.to_dict() == resolved.to_dict()
    assert config_lib.difference(again, resolved) == []


def test_an_unknown_variant_names_the_nearest():
    with pytest.raises(UserError, match="imagnet.*Did you mean 'imagenet'"):
        config_lib.load(f"{ROOT}/configs/simclr.py:imagnet")


def test_a_folder_with_the_name_of_a_config_is_not_in_the_way(tmp_path, monkeypatch):
    (tmp_path / "simclr").mkdir()  # the workdir of a run
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    assert config_lib.load("simclr:digits").method.name == "simclr"
    with pytest.raises(UserError, match="other is no config file"):
        config_lib.load("other")


def test_difference_leaves_out_how_a_run_is_watched():
    old, new = example(), example()
    new.log.every_steps = 3
    new.epochs = 20.0
    new.data.workers = 4
    assert config_lib.difference(old, new) == []
    new.seed = 5
    new.optimizer.base_lr = 0.1
    assert config_lib.difference(old, new) == ["optimizer.base_lr: 0.3 -> 0.1", "seed: 0 -> 5"]
    new = example()
    new.eval.online = False  # changes what a checkpoint holds
    assert config_lib.difference(old, new) == ["eval.online: True -> False"]


def test_data_facts_are_written_into_the_config():
    spec = DataSpec({"image": jax.ShapeDtypeStruct((32, 32, 3), jnp.uint8)}, 1000, 10)
    config = data.with_facts(config_lib.resolve(example()), spec)
    assert config.data.num_examples == 1000 and config.data.num_classes == 10
    assert config.data.image_size == 32 and config.data.channels == 3
    # What stands there is the split's size; the labelled fraction is of it.
    config = data.with_facts(config_lib.resolve(example()), spec, 10_000)
    assert config.data.num_examples == 10_000


def test_a_key_that_did_not_exist_when_a_run_began_has_its_default():
    config = config_lib.resolve(config_lib.load("simclr:digits"))
    kept = json.loads(config_lib.to_json(config))
    del kept["method"]["margin"], kept["optimizer"]["clip"]["per"], kept["log"], kept["nets"]
    old = config_lib.from_json(json.dumps(kept))
    assert config_lib.difference(old, config) == []
    assert old.to_dict() == config.to_dict()
    kept["method"]["margin"] = 0.5
    old = config_lib.from_json(json.dumps(kept))
    assert config_lib.difference(old, config) == ["method.margin: 0.5 -> 0.8"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "run/config.json cannot be read: "),
        ('{"model_type": "bert"}', "run/config.json is not the config of a run"),
        ('{"format": 99}', r"run/config.json has format 99 and this version of ssl_jax reads"),
        ('{"format": 1, "seeed": 1}', "unknown config key seeed; .* Did you mean 'seed'"),
    ],
)
def test_a_file_that_is_no_config_is_named(text, message):
    with pytest.raises(UserError, match=message):
        config_lib.from_json(text, "run/config.json")


def test_every_hyper_parameter_can_be_set_on_the_command_line():
    config = config_lib.load("moco_v1:digits")
    changed = config_lib.apply(config, {"method.bn_groups": "8", "method.hidden_dim": "64"})
    assert (changed.method.bn_groups, changed.method.hidden_dim) == (8, 64)
    changed = config_lib.apply(changed, {"method.bn_groups": "None"})
    assert config_lib.resolve(changed).method.bn_groups is None


def test_another_method_keeps_the_keys_that_it_knows():
    config = config_lib.load("simclr:digits")
    config.method.semi_hard = False
    changes = {"method.momentum": "0.9", "method.name": "moco", "method.num_negatives": "512"}
    method = config_lib.resolve(config_lib.apply(config, changes)).method
    assert (method.name, method.momentum, method.num_negatives) == ("moco", 0.9, 512)
    assert method.output_dim == config.method.output_dim and "semi_hard" not in method
    with pytest.raises(UserError, match="unknown config key method.semi_hard"):
        config_lib.apply(config, {"method.name": "moco", "method.semi_hard": "True"})


def test_another_net_keeps_the_options_that_it_knows():
    config = config_lib.load("simclr:digits")
    config = config_lib.apply(config, {"model.name": "resnet18", "model.stem": "cifar"})
    model = config_lib.resolve(config).model
    assert (model.name, model.stem, model.width) == ("resnet18", "cifar", 1.0)
    assert "widths" not in model
    nets = {"nets.teacher.name": "vit_s16", "nets.teacher.depth": "3"}
    assert config_lib.resolve(config_lib.apply(config, nets)).nets.teacher.dim == 384


def test_the_listing_has_every_key_with_its_meaning():
    config = config_lib.resolve(config_lib.load("simclr:digits"))
    lines = config_lib.listing(config).splitlines()
    temperature = f"method.temperature = {config.method.temperature}"
    assert f"{temperature}  # Temperature t; not used by margin_triplet." in lines
    assert "views.gaussian_noise.std = 0.25  # Standard deviation of the noise." in lines
    assert any(line.startswith("model.widths = (16, 32, 64, 128)  # ") for line in lines)
    keys = [line.partition(" = ")[0] for line in lines if line]
    assert keys[0] == "seed" and len(keys) == len(set(keys)) > 100


def test_the_listing_has_the_columns_that_a_run_has_learned():
    config = config_lib.load("supervised:table")
    config = config_lib.apply(config, {"data.name": "table:breast_cancer"})
    config.data.options.columns = ConfigDict(
        {"names": ("age",), "values": ((),), "means": (40.0,), "deviations": (10.0,)}
    )
    lines = config_lib.listing(config_lib.resolve(config)).splitlines()
    assert "data.options.columns.names = ('age',)" in lines


def test_another_evaluation_under_the_same_name_keeps_what_it_knows():
    config = config_lib.load("rotnet:cifar10")  # eval.connected is a `feature_map`
    changes = {"eval.connected.evaluation": "attentive", "eval.connected.head_dim": "32"}
    section = config_lib.apply(config, changes).eval.connected
    assert section.to_dict() == {"evaluation": "attentive", "head_dim": 32}
    with pytest.raises(UserError, match="unknown evaluation 'linaer'.*Did you mean 'linear'"):
        config_lib.apply(config, {"eval.connected.evaluation": "linaer"})
