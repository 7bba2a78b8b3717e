"""`export --to=official`: checkpoints in the layouts of released code, with heads, out and in."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import checkpoint, data
from ssl_jax import config as config_lib
from ssl_jax.cli import export as command
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment.build import Experiment
from ssl_jax.pretrained import formats, init_from
from tests.methods.table import ROWS
from tests.pretrained.formats import released, torch_files
from tests.pretrained.formats.vits import experiment_of

VIT = dict(name="vit_ti16", patch_size=4, dim=16, depth=2, num_heads=4)
HEAD = dict(hidden_dim=12, output_dim=8, num_prototypes=24)
NORMS = dict(unit_prototypes=False)
PATCHES = dict(VIT, positions="sincos", cls_token=False, pool="mean")
# (row, options of the model, options of the method)
RUNS = {
    "dino": ("dino-vit", VIT, HEAD | NORMS),
    "dino, norms of 1 and BatchNorm": (
        "dino-vit", VIT, HEAD | dict(unit_prototypes=True, head_batch_norm=True),
    ),
    "ibot": ("ibot", dict(VIT, mask_token=True), HEAD | NORMS),
    "dinov2": (
        "dinov2", dict(VIT, mask_token=True, layer_scale=1e-5),
        HEAD | dict(targets="centring", separate_heads=True, num_patch_prototypes=20),
    ),
    "mae": ("mae", dict(VIT, positions="sincos"), {}),
    "ijepa": ("ijepa", PATCHES, {}),
}  # fmt: skip
STEPS = 100


def experiment(name, **method):
    row, model, options = RUNS[name]
    return experiment_of(model, row, **{f"method__{k}": v for k, v in (options | method).items()})


def dino_of_a_resnet():
    """DINO with a net of BatchNorm, whose teacher has statistics of its own."""
    row = ROWS["dino"]
    others = {key: x for key, x in row.overrides.items() if not key.startswith("model.")}
    net = dict(model__name="resnet18", model__width=0.125, method__head_batch_norm=True)
    config = config_lib.resolve(dataclasses.replace(row, overrides=others).load(**net))
    return Experiment.build(config, data.spec_from_config(config.data))


def saved(folder, experiment):
    """A state with random numbers everywhere, as a run's checkpoint in `folder`."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
        return jnp.zeros(leaf.shape, leaf.dtype)

    state = jax.tree.map(draw, experiment.abstract_state)
    folder.mkdir()
    (folder / "config.json").write_text(config_lib.to_json(experiment.config))
    with checkpoint.Checkpointer(folder) as saves:
        saves.save(STEPS, state, wait=True)
    return state


@pytest.fixture
def exported(tmp_path, monkeypatch, capsys):
    """The lines of the command, run in this process."""

    def run(to="official", weights=None):
        given = dict(
            workdir=str(tmp_path / "run"), output=str(tmp_path / "out"), to=to, step=None,
            weights=weights, license=None,
        )  # fmt: skip
        flags = types.SimpleNamespace(FLAGS=types.SimpleNamespace(**given))
        monkeypatch.setattr(command, "flags", flags)
        assert command.main() == 0
        return capsys.readouterr().out.splitlines()

    return run


def assert_same(loaded, expected):
    for part, tree in expected.items():
        own = by_path(tree)
        assert loaded.get(part, {}).keys() == own.keys(), part
        for path, value in own.items():
            np.testing.assert_array_equal(loaded[part][path], value, err_msg=f"{part}/{path}")


@pytest.mark.parametrize("name", RUNS)
def test_a_checkpoint_comes_back_bit_for_bit(name, tmp_path, exported):
    built = experiment(name)
    state = saved(tmp_path / "run", built)
    lines = exported()
    path = str(tmp_path / "out" / "checkpoint.pth")
    assert lines[0].startswith(f"{path}: ") and lines[0].endswith(f", step {STEPS}")
    assert lines[1].startswith("without the optimizer's state")
    trained = {"mae": "", "ijepa": "@encoder"}.get(name, "@student")
    loaded, notes = init_from.load(f"{path}{trained}", built)
    expected = {"params": state.params, "buffers": state.buffers}
    if name != "mae":
        expected["ema"] = state.weights.ema
    assert_same(loaded, expected)
    assert not [note for note in notes if "initialised" in note or "not used" in note], notes
    if trained != "@student":
        return
    # Without a name, the run starts from the teacher.
    loaded, notes = init_from.load(path, built)
    teacher = state.weights.averaged()
    buffers = {**teacher.buffers, "teacher": state.buffers["teacher"]}
    assert_same(loaded, {"params": teacher.params, "buffers": buffers})
    assert notes[-1].startswith("also in the file and not used: student (")


def test_statistics_of_student_and_teacher_come_back(tmp_path, exported):
    built = dino_of_a_resnet()
    state = saved(tmp_path / "run", built)
    exported()
    path = str(tmp_path / "out" / "checkpoint.pth")
    for key, state_dict in formats.read_networks(path).items():
        if key in ("student", "teacher"):  # the code wraps both for several devices
            assert "module.backbone.layer4.1.bn2.running_var" in state_dict
            assert "module.head.mlp.1.running_mean" in state_dict
    loaded, _ = init_from.load(f"{path}@student", built)
    expected = {"params": state.params, "buffers": state.buffers, "ema": state.weights.ema}
    assert_same(loaded, expected)


def test_the_names_of_the_released_code(tmp_path, exported):
    """Names and shapes of DINOHead, iBOTHead, DINOLoss, iBOTLoss and iBOTPatchLoss."""
    mlp = {f"mlp.{layer}.{leaf}" for layer in (0, 2, 4) for leaf in ("weight", "bias")}
    last = {"last_layer.weight_g", "last_layer.weight_v"}
    expected = {
        "dino": {"student": "module.head.", "teacher": "head."},
        "ibot": {"student": "module.head.", "teacher": "head."},
        "dinov2": {"student": "dino_head.", "teacher": "dino_head."},
    }
    for name, prefixes in expected.items():
        saved(tmp_path / "run", experiment(name))
        exported()
        networks = formats.read_networks(str(tmp_path / "out" / "checkpoint.pth"))
        second = {"last_layer2.weight_g", "last_layer2.weight_v"} if name == "ibot" else set()
        for key, prefix in prefixes.items():
            state = networks[key]
            assert {n for n in state if "head" in n and "ibot_head" not in n} == {
                f"{prefix}{n}" for n in mlp | last | second
            }
            assert state[f"{prefix}mlp.0.weight"].shape == (12, 16)
            assert state[f"{prefix}last_layer.weight_v"].shape == (24, 8)
            assert state[f"{prefix}last_layer.weight_g"].shape == (24, 1)
            wrapper = prefix.partition("head")[0].removesuffix("dino_")
            assert state[f"{wrapper}backbone.cls_token"].shape == (1, 1, 16)
            assert state[f"{wrapper}backbone.pos_embed"].shape == (1, 17, 16)
        if name == "dino":
            assert networks["dino_loss"]["center"].shape == (1, 24)
        if name == "ibot":
            assert networks["ibot_loss"]["center2"].shape == (1, 1, 24)
            assert "module.backbone.masked_embed" in networks["student"]
            layers = (networks["teacher"][f"head.last_layer{n}.weight_v"] for n in ("", 2))
            np.testing.assert_array_equal(*layers)
        if name == "dinov2":
            teacher = networks["teacher"]
            heads = {n.removeprefix("ibot_head.") for n in teacher if n.startswith("ibot_head.")}
            assert heads == mlp | last and teacher["ibot_head.last_layer.weight_g"].shape == (20, 1)
            assert "backbone.mask_token" in teacher and "backbone.blocks.1.ls2.gamma" in teacher
            assert networks["ibot_patch_loss"]["center"].shape == (1, 1, 20)
        (tmp_path / "run").rename(tmp_path / f"run of {name}")


def test_one_state_dict_of_all_modules(tmp_path):
    """A checkpoint of DINOv2's SSLMetaArch, gathered: teacher.*, student.* and the losses."""
    built = experiment("dinov2", patch_output_dim=8, **NORMS)
    teacher = released.dinov2_teacher()["teacher"]
    state = {f"{net}.{name}": x for net in ("student", "teacher") for name, x in teacher.items()}
    state["dino_loss.center"] = released.draw(1, 24)
    state["ibot_patch_loss.center"] = released.draw(1, 1, 20)
    torch_files.write(str(tmp_path / "model.pth"), {"model": state, "iteration": 7})
    loaded, lines = init_from.load(f"{tmp_path}/model.pth", built)
    np.testing.assert_array_equal(loaded["buffers"]["centre"], state["dino_loss.center"][0])
    patches = state["ibot_patch_loss.center"][0, 0]
    np.testing.assert_array_equal(loaded["buffers"]["patch_centre"], patches)
    assert lines[-1] == f"also in the file and not used: student ({len(teacher)} arrays)"


def test_heads_of_another_size_are_one_line(tmp_path, exported):
    saved(tmp_path / "run", experiment("dinov2"))
    exported()
    other = experiment("dinov2", num_prototypes=32)
    loaded, lines = init_from.load(f"{tmp_path}/out/checkpoint.pth", other)
    about_heads = [line for line in lines if line.startswith("the head")]
    shape = "dino_head.last_layer.weight_v has shape (24, 8), not (32, 8)"
    assert about_heads == [f"the head is not loaded but initialised: {shape}"]
    assert "prototypes/direction" not in loaded["params"] and "centre" not in loaded["buffers"]
    assert "patch_prototypes/direction" in loaded["params"]


def test_what_has_no_such_checkpoint(tmp_path, exported):
    saved(tmp_path / "run", experiment_of(VIT, "moco-v3-vit"))
    with pytest.raises(UserError, match="runs of dino, ibot, dinov2, mae, ijepa, and .* moco_v3"):
        exported()
    with pytest.raises(UserError, match="moving average; leave out --weights=ema"):
        exported(weights="ema")
    assert not (tmp_path / "out").exists()
