"""Runs that start from files as others' training scripts leave them, heads and all."""

import functools
import json

import numpy as np
import pytest

from ssl_jax import config as config_lib
from ssl_jax import data
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path, replace
from ssl_jax.experiment.build import Experiment
from ssl_jax.models import make_encoder
from ssl_jax.pretrained import formats, init_from
from ssl_jax.pretrained.unseen_settings import check_settings
from tests.methods.table import ROWS
from tests.models.test_vit import by_formula
from tests.pretrained.formats import torch_files
from tests.pretrained.formats.nets import images, perturbed
from tests.pretrained.formats.test_hugging_face import workdir_of

SIDE = 16  # of the digits, which have one channel
RESNET = dict(name="resnet18", stem="cifar", width=0.125)
VIT = dict(name="vit_ti16", patch_size=4, dim=16, depth=2, num_heads=4)
ROW_FIRST = dict(VIT, positions="sincos_row_first")


def experiment_of(model, **overrides):
    """A classifier that is to start from something; one for all tests that ask for the same."""
    return _experiment_of(tuple(model.items()), tuple(overrides.items()))


@functools.cache
def _experiment_of(model, overrides):
    model, overrides = dict(model), dict(overrides)
    config = ROWS["supervised"].load(**overrides)
    config = config_lib.apply(config, {f"model.{option}": value for option, value in model.items()})
    config = config_lib.resolve(config)
    return Experiment.build(config, data.spec_from_config(config.data))


def encoder_of(model):
    """(params, buffers, their names in PyTorch -> array) of an encoder."""
    params, buffers, state = _encoder_of(tuple(model.items()))
    return params, buffers, dict(state)


@functools.cache
def _encoder_of(model):
    model = dict(model)
    _, params, buffers = perturbed(SIDE, channels=1, **model)
    grid = by_formula((4, 4), 16, "sincos_row_first").reshape(4, 4, 16)
    return params, buffers, formats.to_torch(params, buffers, sincos=grid)


def below(prefix, state):
    return {f"{prefix}{name}": x for name, x in state.items()}


def zeros(state):
    return {name: np.zeros_like(x) for name, x in state.items()}


def head(*names):
    return {name: np.ones((2, 2), np.float32) for name in names}


# What stands in the files of each, made of the encoder's state.


def moco(state):
    state = {**state, **head("fc.0.weight", "fc.2.weight")}
    own = {"module.queue": np.ones((2, 3), np.float32), "module.queue_ptr": np.zeros(1, np.int64)}
    members = below("module.encoder_q.", state) | below("module.encoder_k.", zeros(state)) | own
    return {"epoch": 200, "arch": "resnet18", "state_dict": members, "optimizer": {"state": {}}}


def moco_v3(state):
    state = {**state, **head("head.0.weight", "head.1.running_mean")}
    state["head.1.num_batches_tracked"] = np.asarray(7, np.int64)
    members = below("module.momentum_encoder.", zeros(state))
    members |= below("module.base_encoder.", state) | head("module.predictor.0.weight")
    return {"epoch": 300, "state_dict": members, "scaler": {"scale": 1.0}}


def simsiam(state):
    state = {**state, **head("fc.0.weight", "fc.1.running_var", "fc.6.bias")}
    members = below("module.encoder.", state) | head("module.predictor.0.weight")
    return {"epoch": 100, "state_dict": members}


def dino(state):
    student = below("module.backbone.", zeros(state)) | head("module.head.mlp.0.weight")
    teacher = below("backbone.", state) | head("head.mlp.0.weight", "head.last_layer.weight_g")
    loss = {"center": np.ones((1, 4), np.float32)}
    return {"student": student, "teacher": teacher, "epoch": 300, "dino_loss": loss}


def dino_student(state):
    return {"student": below("module.backbone.", state) | head("module.head.mlp.0.weight")}


MOCO_V3_HEAD = "head.0.weight, head.1.running_mean"


@pytest.mark.parametrize(
    "file, model, prefix, other, unused",
    [
        (moco, RESNET, "module.encoder_q.", "encoder_k", "fc.0.weight, fc.2.weight"),
        (moco_v3, RESNET, "module.base_encoder.", "momentum_encoder", MOCO_V3_HEAD),
        (moco_v3, ROW_FIRST, "module.base_encoder.", "momentum_encoder", MOCO_V3_HEAD),
        (simsiam, RESNET, "module.encoder.", None, "fc.0.weight, fc.1.running_var, fc.6.bias"),
        (dino, VIT, "backbone.", "student", None),
        (dino, RESNET, "backbone.", "student", None),
        (dino_student, VIT, "module.backbone.", None, None),
    ],
)
def test_official_files(file, model, prefix, other, unused, tmp_path):
    params, buffers, state = encoder_of(model)
    path = str(tmp_path / "official.pth")
    torch_files.write(path, file(state))
    loaded, lines = init_from.load(path, experiment_of(model))
    count = len(by_path(params)) + len(by_path(buffers))
    numbers = sum(x.size for tree in (params, buffers) for x in by_path(tree).values())
    name = {"encoder_k": "encoder_q, ", "momentum_encoder": "base_encoder, "}
    name = name.get(other, "teacher, " if other else "")
    expected = [f"{path}: {name}names below {prefix!r}, {count} arrays, {numbers:,} numbers"]
    if other:
        expected.append(f"the file also has {other}: set init_from=.../official.pth@{other}")
    expected += [f"not used: {unused}"] if unused else []
    assert lines[:-1] == expected
    assert lines[-1].startswith("also in the file and not used: ") and "array" in lines[-1]
    assert other is None or f"{other} (" in lines[-1]
    for part, tree in (("params", params), ("buffers", buffers)):
        assert loaded[part].keys() == {f"encoder/{below}" for below in by_path(tree)}
        for below, leaf in by_path(tree).items():
            np.testing.assert_array_equal(loaded[part][f"encoder/{below}"], leaf, err_msg=below)


def test_what_does_not_match_is_said(tmp_path):
    _, _, state = encoder_of(RESNET)
    del state["bn1.running_mean"]
    state["layer1.0.conv1.weight"] = state["layer1.0.conv1.weight"][:, :3]
    path = str(tmp_path / "official.pth")
    torch_files.write(path, simsiam(state))
    with pytest.raises(UserError) as told:
        init_from.load(path, experiment_of(RESNET))
    said = str(told.value)
    assert said.startswith(f"init_from={path} does not fit this run's encoder: ")
    assert "layer1.0.conv1.weight has shape (3, 3, 3, 8), not (3, 3, 8, 8)" in said
    assert "bn1.running_mean is missing" in said
    assert said.endswith("--config.init_partial=True")
    _, lines = init_from.load(path, experiment_of(RESNET, init_partial=True))
    assert lines[0].startswith(f"{path}: names below 'module.encoder.', ")
    assert lines[1].startswith("not found: ") and "bn1.running_mean is missing" in lines[1]
    assert "layer1.0.conv1.weight has shape (3, 3, 3, 8), not (3, 3, 8, 8)" in lines[1]
    assert lines[2].startswith("not used: layer1.0.conv1.weight, fc.0.weight")


def test_a_mocov3_vit_makes_the_features_of_its_file(tmp_path):
    """Its positions are in the file: a net that takes them as learned says what they do."""
    params, _, state = encoder_of(ROW_FIRST)
    path = str(tmp_path / "vit-s-300ep.pth.tar")
    torch_files.write(path, moco_v3(state))
    x = images(SIDE)[..., :1]

    def features(model):
        loaded, lines = init_from.load(path, experiment_of(model))
        assert "not found" not in lines[1]
        net, blank, _ = perturbed(SIDE, channels=1, **model)
        found = {name.removeprefix("encoder/"): leaf for name, leaf in loaded["params"].items()}
        assert found.keys() == by_path(blank).keys()
        return np.asarray(net.apply(replace(blank, found), {}, x, train=False)[0][0])

    as_learned = features(VIT)
    np.testing.assert_allclose(features(ROW_FIRST), as_learned, rtol=1e-5, atol=1e-6)
    # In MAE's order they would be others: refused, with what to set.
    other = dict(VIT, positions="sincos")
    net = make_encoder(**other)
    wrong = np.asarray(net.apply(params, {}, x, train=False)[0][0])
    assert np.abs(wrong - as_learned).max() > 1e-2
    message = "its pos_embed does not have the fixed positions of model.positions=sincos; set "
    with pytest.raises(UserError, match=f"{message}model.positions=sincos_row_first"):
        init_from.load(path, experiment_of(other))
    _, _, learned = encoder_of(VIT)
    torch_files.write(path, dino(learned))
    with pytest.raises(UserError, match=f"init_from={path}: .*; set model.positions=learned"):
        init_from.load(path, experiment_of(other))


def of_width(dim, heads):
    return dict(VIT, dim=dim, depth=1, num_heads=heads)


@pytest.mark.parametrize(
    ("file", "dim", "heads", "expected"),
    [
        (moco_v3, 384, 12, "taken"),  # ViT-S, 12 heads in the paper's table 1
        (moco_v3, 384, 6, "MoCo v3's ViT of 384 channels has 12 heads, and this run's has 6; set"),
        (dino, 384, 6, "taken"),
        (dino, 384, 12, "published ViTs of 384 channels have 6, and this run's has 12"),
        (dino, 192, 4, "published ViTs of 192 channels have 3, and this run's has 4"),
        (dino, 16, 2, "taken"),  # of no published width
    ],
)
def test_the_heads_of_published_vits(file, dim, heads, expected, tmp_path):
    """Their number changes the features and no shape."""
    model = of_width(dim, heads)
    _, _, state = encoder_of(model)
    path = str(tmp_path / "vit.pth")
    torch_files.write(path, file(state))
    if expected.startswith("MoCo"):
        with pytest.raises(UserError, match=f"init_from={path}: {expected} model.num_heads=12"):
            init_from.load(path, experiment_of(model))
        return
    _, lines = init_from.load(path, experiment_of(model))
    notes = [line for line in lines if " heads " in line]
    assert notes == [] if expected == "taken" else expected in notes[0] and len(notes) == 1


def test_an_export_says_how_many_heads_it_has(tmp_path):
    _, _, state = encoder_of(VIT)
    path = str(tmp_path / "model.safetensors")
    formats.write_safetensors(path, state)
    architecture = {"name": "vit_ti16", "num_heads": 4, "positions": "learned"}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": architecture}))
    init_from.load(str(tmp_path), experiment_of(VIT))
    with pytest.raises(UserError, match="has model.num_heads=4 and this run 2; set model.num_head"):
        init_from.load(str(tmp_path), experiment_of(dict(VIT, num_heads=2)))
    del architecture["num_heads"]  # the model's own number
    (tmp_path / "config.json").write_text(json.dumps({"architecture": architecture}))
    with pytest.raises(UserError, match="has model.num_heads=3 and this run 4"):
        init_from.load(path, experiment_of(VIT))


@pytest.mark.parametrize(
    ("model", "config", "message"),
    [
        (VIT, dict(architecture="vit_tiny_patch16_224"), None),
        (VIT, dict(model_args=dict(img_size=16, num_heads=4, act_layer="gelu")), None),
        (VIT, dict(model_args=dict(num_heads=2)), "model_args.num_heads 2, and .* model.num_hea"),
        (VIT, dict(model_args=dict(act_layer="quick_gelu")), "model_args.act_layer 'quick_gelu'"),
        (VIT, dict(model_args=dict(attn_layer="diff")), "unknown argument .*attn_layer 'diff'"),
        (VIT, dict(architecture="vit_base_patch16_clip_quickgelu_224"), "has another activation"),
        (RESNET, dict(architecture="resnet18", model_args=dict(act_layer="relu")), None),
        (RESNET, dict(model_args=dict(act_layer="silu")), "model_args.act_layer 'silu'"),
        (RESNET, dict(architecture="resnetblur18"), "a blur before its strides"),
        (RESNET, dict(model_type="resnet"), "model_type 'resnet'; supported are"),
    ],
)  # fmt: skip
def test_timms_config_is_honoured_or_refused(model, config, message, tmp_path):
    """What timm's arguments change without an array that shows it."""
    _, _, state = encoder_of(model)
    formats.write_safetensors(str(tmp_path / "model.safetensors"), state)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "a_vit", **config}))
    if message is None:
        loaded, _ = init_from.load(str(tmp_path), experiment_of(model))
        assert len(loaded["params"]) > 4
        return
    with pytest.raises(UserError, match=f"init_from={tmp_path}.*{message}"):
        init_from.load(str(tmp_path), experiment_of(model))


def test_a_config_json_beside_another_file_is_not_read(tmp_path):
    _, _, state = encoder_of(VIT)
    path = str(tmp_path / "vit.safetensors")
    formats.write_safetensors(path, state)
    (tmp_path / "config.json").write_text("[")
    assert len(init_from.load(path, experiment_of(VIT))[1]) == 1


def test_settings_that_no_array_shows():
    experiment = experiment_of(dict(RESNET, name="resnet50"))
    check_settings("x", {"name": "resnet50", "shortcut": "conv", "stem": "deep"}, experiment)
    check_settings("x", {"name": "resnet50", "shortcut": None}, experiment)
    with pytest.raises(UserError, match="x has model.shortcut=pool and this run conv; set model.s"):
        check_settings("x", {"name": "resnet50", "shortcut": "pool"}, experiment)
    small = experiment_of(dict(name="convnet", widths=(8, 8), strides=(2, 1)))
    check_settings("x", {"name": "convnet", "widths": [8, 8], "strides": [2, 1]}, small)
    with pytest.raises(UserError, match=r"x has model.strides=\(1, 2\) and this run \(2, 1\); "):
        check_settings("x", {"name": "convnet", "widths": [8, 8], "strides": [1, 2]}, small)


@pytest.mark.parametrize(
    ("model", "extra", "named"),
    [
        (VIT, "blocks.2.norm1.weight", "blocks.2.norm1.weight"),
        (VIT, "blocks.0.attn.q_norm.weight", "blocks.0.attn.q_norm.weight"),
        (VIT, "blocks.1.ls1.gamma", "blocks.1.ls1.gamma"),
        (VIT, "norm_pre.weight", "norm_pre.weight"),
        (RESNET, "layer1.0.se.fc1.weight", "layer1.0.se.fc1.weight"),
        (RESNET, "layer3.5.conv1.weight", "layer3.5.conv1.weight"),
        (VIT, "head.weight", None),
        (RESNET, "fc.weight", None),
    ],
)
def test_an_encoder_with_more_layers_is_refused(model, extra, named, tmp_path):
    """Without them it computes something else. A head is left out."""
    _, _, state = encoder_of(model)
    path = str(tmp_path / "x.safetensors")
    formats.write_safetensors(path, {**state, extra: np.ones(3, np.float32)})
    if named is None:
        assert init_from.load(path, experiment_of(model))[1][1] == f"not used: {extra}"
        return
    with pytest.raises(UserError, match=f"={path} does not .* lacks {named}; .*init_partial=True"):
        init_from.load(path, experiment_of(model))
    _, lines = init_from.load(path, experiment_of(model, init_partial=True))
    assert lines[1] == f"not used: {named}"


@pytest.mark.slow
def test_a_run_of_other_fixed_positions_is_refused(tmp_path):
    run = tmp_path / "run"
    _, state = workdir_of("supervised-vit", run, model__positions="sincos_row_first")

    def load(positions):
        config = ROWS["supervised-vit"].load(seed=7, model__positions=positions)
        experiment = Experiment.build(config, data.spec_from_config(config.data))
        return init_from.load(str(run), experiment)

    loaded, lines = load("sincos_row_first")
    assert len(lines) == 2 and loaded["params"].keys() == by_path(state.params).keys()
    with pytest.raises(UserError, match="has model.positions=sincos_row_first and this run sincos"):
        load("sincos")
    with pytest.raises(UserError, match="params/encoder/pos_embed/cls is missing"):
        load("learned")
