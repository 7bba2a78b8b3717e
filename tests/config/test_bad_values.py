"""Bad values of every key of several configs are refused by one line, or are on a reviewed list."""

import math
import re

import pytest

from ssl_jax import config as config_lib
from ssl_jax.cli.train import dry_run
from ssl_jax.config import fields
from ssl_jax.config.listing import flat
from ssl_jax.config.schema import schema
from ssl_jax.core import named_methods
from ssl_jax.core.errors import UserError
from ssl_jax.models import registry as models
from tests.config.tiny_nets import name_net

CONFIGS = ("simclr:digits", "moco_v3:vit_s16", "bert:base", "instdisc:digits",
           "distill:imagenet_big", "supervised:finetune_mae_b", "vicreg:digits", "byol:imagenet",
           "moco_v1:digits")  # fmt: skip
BAD = {"negative": -1, "huge": 10.0**30, "overflow": 10.0**300, "long": 10**30, "nan": math.nan,
       "infinite": -math.inf, "word": "abc", "fraction": 2.5, "boolean": True, "empty": (),
       "nested": ((),), "none": None, "section": {"a": 1}}  # fmt: skip
# What the words of a type say that it takes: reviewed by type, not by key.
TAKES = {
    "huge": ("a number above 0", "a number of at least 0", "a number or None"),
    "fraction": (
        "a number above 0",
        "a number of at least 0",
        "a number or None",
        "a number from 0 to 1000000.0",
    ),
    "word": ("a text",),
    "boolean": ("True or False",),
    "none": ("None",),
}
# Keys with values that look bad and are not.
ALLOWED = {
    "negative": {"mesh.data", "mesh.fsdp", "mesh.tensor", "eval.task.null_threshold"},
    "fraction": {"model.width", "nets.teacher.width", "views.random_affine.degrees",
                 "views.random_affine.shear", "views.rand_augment.magnitude",
                 "views.rand_augment.max_magnitude"},
    "empty": {"views.ops", "optimizer.milestones", "mesh.rules", "eval.names", "eval.final_names",
              "eval.baselines", "eval.properties.disentanglement", "eval.properties.layers",
              "profile_steps"},
}  # fmt: skip


def load(name):
    config = config_lib.load(name)
    name_net(config, "")
    return config


def is_taken(key, kind, path):
    by_type = any(words in fields.type_text(key.type) for words in TAKES.get(kind, ()))
    return by_type or path in ALLOWED.get(kind, ())


@pytest.mark.parametrize("name", CONFIGS)
def test_each_bad_value_of_each_key_is_one_line(name):
    config = config_lib.resolve(load(name))
    declared = schema(config)
    for path, _ in flat(fields.check(declared, config, "")):
        key = fields.find(declared, path)
        if fields.type_text(key.type) == "a section":
            continue
        section = fields.Section({"key": key})
        for kind, value in BAD.items():
            try:
                fields.read(section, {"key": value}, path)
            except UserError as error:
                assert "\n" not in str(error) and str(error).startswith(path), (path, kind)
            else:
                assert is_taken(key, kind, path), (path, kind, fields.type_text(key.type))


@pytest.mark.parametrize("name", ("simclr:digits", "bert:base"))
def test_resolve_checks_every_key(name):
    """One bad value a key, set in the config as a config file would."""
    config = config_lib.resolve(load(name))
    sections = set()
    for path, value in flat(config.to_dict()):
        if path.endswith(".name"):
            continue
        *above, key = path.split(".")
        bad = config.copy_and_resolve_references().unlock()
        section = bad
        for part in above:
            section = section[part]
        del section[key]
        section[key] = math.nan
        with pytest.raises(UserError) as caught:
            config_lib.resolve(bad)
        assert str(caught.value).startswith(f"{path} is nan; "), (path, caught.value)
        # A key beside it that does not exist.
        del section[key]
        section[key] = value
        where = ".".join(above)
        if where not in sections:
            sections.add(where)
            section[f"{key}x"] = 1
            with pytest.raises(UserError, match=f"unknown config key {path}x.*mean '{key}'"):
                config_lib.resolve(bad)


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("method.temperature", "-1", "method.temperature is '-1'; use a number above 0"),
        ("method.temperature", "nan", "method.temperature is 'nan'; use a number above 0"),
        ("method.loss", "nt_xnet", "method.loss is 'nt_xnet'; .* Did you mean 'nt_xent'"),
        ("method.temprature", "1", "unknown config key method.temprature; .*mean 'temperature'"),
        ("model.widths", "()", "model.widths is '()'; use a tuple, each item a whole number abo"),
        ("model.width", "2", "unknown config key model.width; .* Did you mean 'widths'"),
        ("views.gaussian_noise.std", "-0.1", "views.gaussian_noise.std is '-0.1'; use a number"),
        ("views.ops", "flipp", "views.ops is 'flipp'; use a tuple"),
        ("optimizer.momentum", "2", "optimizer.momentum is '2'; use a number of at least 0 and"),
        ("optimizer.groups.head.momentum", "2", "optimizer.groups.head.momentum is '2'; use"),
        ("optimizer.schedule", "cosin", "optimizer.schedule is 'cosin'; .* mean 'cosine'"),
        ("eval.knn.k", "0", "eval.knn.k is '0'; use a whole number above 0"),
        ("eval.kn.k", "1", "unknown config key eval.kn; .* Did you mean 'knn'"),
        ("data.sampler.name", "pkk", "data.sampler.name is 'pkk'; .* Did you mean 'pk'"),
        ("method.name", "simclear", "unknown method 'simclear'; .* Did you mean 'simclr'"),
        ("model.name", "resnet51", "model.name is 'resnet51'; .* Did you mean 'resnet50'"),
        ("epochs", "nan", "epochs is 'nan'; use a number above 0"),
        ("epochs", "inf", "epochs is 'inf'; use a number above 0"),
        ("eval.every_epochs", "nan", "eval.every_epochs is 'nan'; use a number of at least 0"),
        ("mesh.rules", "5", "mesh.rules is '5'; use a tuple, each item a tuple"),
        ("model.widths", "('x',)", "model.widths is .*; use a tuple, each item a whole number"),
        ("batch_size", "1000000000000", "batch_size is .*; use a whole number of at most 42949672"),
        ("model.widths", "(1000000000000,)", "model.widths is .* whole number of at most 42949672"),
        ("data.image_size", "32769", "data.image_size is .* from 1 to 32768"),
        ("seed", "-1", "seed is '-1'; use a whole number from 0 to 4294967295"),
        ("optimizer", "3", "config key optimizer is a section; set one of "),
        ("seed.x", "3", "config key seed is a value, so there is no seed.x"),
    ],
)
def test_a_bad_word_of_a_command_line(path, text, message):
    with pytest.raises(UserError) as caught:
        config_lib.apply(load("simclr:digits"), {path: text})
    assert re.match(message.replace("()", r"\(\)"), str(caught.value)), caught.value
    assert "\n" not in str(caught.value)


def test_every_hyper_parameter_and_option_says_what_it_means():
    """And its default is a value that it takes."""
    sections = {f"method {name}": named_methods.declaration(name) for name in named_methods.names()}
    sections |= {f"model {name}": models.declaration(name, "model") for name in models.NETS}
    sections["config"] = schema(config_lib.base_config())
    for name, section in sections.items():
        for field in fields.describe(section, name):
            assert field.doc, f"{field.path} says not what it means"
        values = {"name": name.partition(" ")[2], **fields.defaults(section)}
        if name == "config":
            del values["name"]
        fields.check(section, values, name)


def test_a_key_that_may_be_none_is_set_to_none():
    settings = {"method.bn_groups": "None"}
    for name in ("moco_v1:digits", "moco_v2:digits"):
        config = config_lib.resolve(config_lib.apply(config_lib.load(name), settings), settings)
        assert config.method.bn_groups is None


def test_a_name_of_no_evaluation_is_refused():
    config = config_lib.apply(config_lib.load("simclr:digits"), {"eval.names": "5"})
    with pytest.raises(UserError, match="unknown evaluation '5'; use one of accuracy"):
        dry_run(config_lib.resolve(config, {"eval.names": "5"}))
