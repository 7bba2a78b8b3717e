"""The export command where the other library is at hand: it compares, and fails on a difference."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import checkpoint, data, parallel
from ssl_jax import config as config_lib
from ssl_jax.cli import export as command
from ssl_jax.core.errors import RunError, UserError
from ssl_jax.experiment.build import Experiment
from ssl_jax.models.resnet import BLOCKS_PER_STAGE
from ssl_jax.pretrained import export, formats, released, torch_models, trained_run
from tests.methods.table import ROWS
from tests.pretrained.formats import peers

RESNET = ("simclr", dict(name="resnet18"))
# As MoCo v3's: more heads than the name says.
VIT = dict(name="vit_s16", patch_size=4, dim=48, depth=2, num_heads=12, pool="cls")
RUNS = {
    "resnet": RESNET,
    "vit": ("moco-v3-vit", VIT | dict(positions="sincos_row_first")),
    "vit_of_mae": ("moco-v3-vit", VIT | dict(positions="sincos", pool="mean")),
    "wide": ("simclr", dict(name="resnet18", width=0.25)),
}


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """Folders of runs after three steps, no weight and no statistic of which is 0 or 1."""
    made = {}

    def make(name):
        row, model = RUNS[name]
        others = {k: v for k, v in ROWS[row].overrides.items() if not k.startswith("model.")}
        encoder = {f"model__{option}": value for option, value in model.items()}
        config = dataclasses.replace(ROWS[row], overrides=others).load(**encoder)
        source = data.from_config(config.data, seed=0)
        config = data.with_facts(config, source.spec)
        mesh = parallel.make_mesh(devices=jax.devices()[:1])
        state = Experiment.build(config, source.spec, mesh).init_state()
        rng = np.random.default_rng(0)

        def noisy(leaf, positive=False):
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                return leaf
            noise = 0.1 * rng.standard_normal(leaf.shape, np.float32)
            return leaf + (abs(noise) if positive else noise)

        drawn = state.replace(
            params=jax.tree.map(noisy, state.params),
            buffers=jax.tree.map(lambda leaf: noisy(leaf, positive=True), state.buffers),
            opt_state=jax.tree.map(noisy, state.opt_state),
        )
        state = jax.device_put(drawn, parallel.replicated(mesh))
        path = tmp_path_factory.mktemp(name)
        (path / "config.json").write_text(config_lib.to_json(config))
        with checkpoint.Checkpointer(path) as saves:
            saves.save(3, state, wait=True)
        return path, state

    def get(name):
        if name not in made:
            made[name] = make(name)
        return made[name]

    return get


@pytest.fixture
def exported(tmp_path, monkeypatch, capsys):
    """(lines, arrays) of the command, run in this process: its torchvision needs `peers`."""

    def run(workdir, to, weights=None):
        given = dict(
            workdir=str(workdir),
            output=str(tmp_path / "out"),
            to=to,
            step=None,
            weights=weights,
            license=None,
        )
        flags = types.SimpleNamespace(FLAGS=types.SimpleNamespace(**given))
        monkeypatch.setattr(command, "flags", flags)
        assert command.main() == 0
        lines = capsys.readouterr().out.splitlines()
        return lines, formats.read(str(tmp_path / "out" / "model.safetensors"))

    return run


def assert_compared(lines, to, what="images of digits"):
    assert lines[0].endswith("arrays, step 3")
    begin, _, difference = lines[1].rpartition(" ")
    assert begin == f"compared with {to} on 8 {what}: features differ by"
    assert float(difference) <= 1e-4 and len(lines) == 2 + (to == "timm")  # the model card


@pytest.mark.parametrize(
    "name, to",
    [("resnet", "torchvision"), ("resnet", "timm"), ("vit", "timm"), ("vit_of_mae", "timm")],
)
def test_the_features_are_compared(name, to, run_of, exported):
    lines, arrays = exported(run_of(name)[0], to)
    assert_compared(lines, to)
    assert ("pos_embed" in arrays) == name.startswith("vit")


@pytest.mark.parametrize("name", ["resnet", "vit", "vit_of_mae"])
def test_timm_builds_the_net_of_the_folder(name, run_of, exported, tmp_path):
    path, _ = run_of(name)
    exported(path, "timm")
    net = peers.timm.create_model(f"local-dir:{tmp_path}/out", pretrained=True)
    run = trained_run.load(str(path), dtype="float32")
    images, _ = export._images(run)
    views = np.asarray(run.experiment.method.eval_view(images), np.float32)
    theirs, ours = peers.features(net, views), np.asarray(run.encode({"image": images})["h"])
    np.testing.assert_allclose(theirs, ours, atol=1e-3 * np.abs(ours).max())


def test_the_moving_average_is_compared_with_itself(run_of, exported):
    path, state = run_of("vit")
    lines, arrays = exported(path, "timm", weights="ema")
    assert_compared(lines, "timm")
    average = state.weights.ema["encoder"]["norm"]["bias"]
    np.testing.assert_array_equal(arrays["norm.bias"], average)
    assert np.abs(arrays["norm.bias"] - state.params["encoder"]["norm"]["bias"]).max() > 1e-2


def test_noise_is_called_so(run_of, exported, monkeypatch):
    def absent(*arguments, **options):
        raise UserError("not prepared")

    monkeypatch.setattr(export.data, "from_config", absent)
    lines, _ = exported(run_of("vit")[0], "timm")
    assert_compared(lines, "timm", "images of noise, because digits is not available")


def test_a_difference_fails_the_command(run_of, exported, monkeypatch):
    write = formats.write_safetensors

    def broken(path, arrays):
        write(path, {**arrays, "bn1.bias": arrays["bn1.bias"] + 0.01})

    with monkeypatch.context() as patch:
        patch.setattr(formats, "write_safetensors", broken)
        with pytest.raises(RunError, match="torchvision computes other features from .* relative"):
            exported(run_of("resnet")[0], "torchvision")
    # Positions in the other order.
    other = released.sincos_positions
    monkeypatch.setattr(released, "sincos_positions", lambda grid, dim, kind: other(grid, dim))
    with pytest.raises(RunError, match="timm computes other features from"):
        exported(run_of("vit")[0], "timm")


def test_a_net_that_the_library_does_not_have_is_exported(run_of, exported):
    for to in ("torchvision", "timm"):
        lines, arrays = exported(run_of("wide")[0], to)
        assert lines[1:2] == [
            f"not compared with {to}: it has no ResNet whose first layer has 16 channels"
        ]
        assert arrays["conv1.weight"].shape == (16, 1, 7, 7)


def test_what_the_libraries_are_said_to_have():
    for depth in BLOCKS_PER_STAGE:
        name = f"resnet{depth}"
        assert peers.timm.is_model(name) == (depth in torch_models.DEPTHS["timm"])
        has = hasattr(peers.torchvision.models, name)
        assert has == (depth in torch_models.DEPTHS["torchvision"])
