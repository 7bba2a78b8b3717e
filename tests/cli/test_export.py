"""Weights out of a run and into another, through the commands."""

import json
import os

import numpy as np
import pytest
from ml_collections import ConfigDict

from ssl_jax import config as config_lib
from ssl_jax import data
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment.build import Experiment
from ssl_jax.models import ResNet
from ssl_jax.pretrained import formats, init_from, torch_models, trained_run
from tests.commands import TINY, run
from tests.methods.rows.row import CONFIGS

RESNET = [
    "--config=configs/simclr.py:shapes",
    *(flag for flag in TINY[1:] if "widths" not in flag),
    "--config.data.image_size=16", "--config.views.random_resized_crop.size=16",
    "--config.data.options.num_generated=128", "--config.dtype=float32",
    "--config.model.width=0.125", "--config.batch_size=16", "--config.steps=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "resnet"
    run(workdir, *RESNET)
    return workdir


def build(trained, **changes):
    config = trained_run.read_config(trained)
    config.update_from_flattened_dict(changes)
    return Experiment.build(config, data.spec_from_config(config.data))


@pytest.mark.slow
def test_out_under_timms_names_and_in_again(trained, tmp_path):
    done = run(trained, f"--output={tmp_path}/out", "--to=timm", module="export")
    assert "arrays, step 3" in done.stdout
    # With PyTorch at hand or without.
    reason = "not compared with timm: it has no ResNet whose first layer has 8 channels\n"
    assert done.stdout.splitlines(keepends=True)[-2] == reason
    assert done.stdout.endswith("README.md: model card, for ssl_jax\n")
    described = json.loads((tmp_path / "out" / "config.json").read_text())
    assert described["architecture"]["name"] == "resnet18" and described["image_size"] == 16
    state = formats.read(f"{tmp_path}/out/model.safetensors")
    assert state["conv1.weight"].shape == (8, 3, 3, 3)

    experiment = build(trained, seed=5)
    loaded, lines = init_from.load(f"{tmp_path}/out", experiment)
    assert "arrays" in lines[0] and len(lines) == 1
    fresh = experiment.init_state()
    begun = experiment.init_state(loaded)
    source = trained_run.load(str(trained))
    for part in ("params", "buffers"):
        for path, leaf in by_path(getattr(source.weights, part)).items():
            got = by_path(getattr(begun, part))[path]
            if path.startswith("encoder/"):
                np.testing.assert_array_equal(got, leaf, err_msg=path)
            else:
                np.testing.assert_array_equal(got, by_path(getattr(fresh, part))[path])


@pytest.mark.slow
def test_a_run_starts_from_another(trained, tmp_path):
    done = run(tmp_path / "next", *RESNET, f"--config.init_from={trained}", "--config.seed=3")
    assert f"starts from {trained}: step 3, " in done.stdout
    # And only a fresh one does: a finished run is left alone.
    again = run(tmp_path / "next", *RESNET, f"--config.init_from={trained}", "--config.seed=3")
    assert "nothing to do" in again.stdout and "starts from" not in again.stdout

    experiment = build(trained, **{"seed": 5, "method.output_dim": 4})
    loaded, lines = init_from.load(f"{trained}@3", experiment)
    assert "not found" in lines[1] and "projector/dense2/kernel" in lines[1]
    assert "encoder/stem/conv/kernel" in loaded["params"]
    assert "projector/dense2/kernel" not in loaded["params"]


def classifier(trained, **method):
    config = trained_run.read_config(trained)
    with config.unlocked():
        config.method = ConfigDict({**method})
    return Experiment.build(config, data.spec_from_config(config.data))


@pytest.mark.slow
def test_a_frozen_encoder_and_a_teacher_find_their_weights(trained, tmp_path):
    source = trained_run.load(str(trained))
    run(trained, f"--output={tmp_path}", "--to=timm", module="export")
    for origin in (str(trained), str(tmp_path)):
        experiment = classifier(trained, name="supervised", freeze_encoder=True)
        state = experiment.init_state(init_from.load(origin, experiment)[0])
        frozen = state.buffers["frozen"]["encoder"]
        for path, leaf in by_path(source.weights.params["encoder"]).items():
            np.testing.assert_array_equal(by_path(frozen)[path], leaf, err_msg=path)
        statistics = by_path(state.buffers["encoder"])
        for path, leaf in by_path(source.weights.buffers["encoder"]).items():
            np.testing.assert_array_equal(statistics[path], leaf, err_msg=path)


@pytest.mark.slow
def test_our_own_names(trained, tmp_path):
    run(trained, f"--output={tmp_path}", "--to=safetensors", module="export")
    state = formats.read(f"{tmp_path}/model.safetensors")
    source = trained_run.load(str(trained))
    np.testing.assert_array_equal(
        state["params/stem/conv/kernel"], source.weights.params["encoder"]["stem"]["conv"]["kernel"]
    )
    assert "buffers/batch_stats/stem/norm/mean" in state
    mode = os.stat(f"{tmp_path}/model.safetensors").st_mode & 0o777
    assert mode == os.stat(f"{tmp_path}/config.json").st_mode & 0o777
    described = json.loads((tmp_path / "config.json").read_text())
    assert described["input"] == "RGB, values in [0, 1]" and described["image_size"] == 16
    # And in again: all of the encoder, and nothing else.
    loaded, lines = init_from.load(str(tmp_path), build(trained))
    assert lines == [lines[0]] and f"{len(state)} arrays" in lines[0]
    for name, array in state.items():
        part, _, below = name.partition("/")
        np.testing.assert_array_equal(loaded[part][f"encoder/{below}"], array, err_msg=name)
    blocked = run(trained, f"--output={tmp_path}/config.json", "--to=safetensors",
                  module="export", check=False)  # fmt: skip
    assert blocked.returncode == 1 and "cannot be a folder: File exists" in blocked.stderr
    assert len(blocked.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_what_cannot_be_is_said_in_one_line(trained, tmp_path):
    out = f"--output={tmp_path}/out"
    for arguments, message in (
        ((out,), "--to is missing"),
        ((out, "--to=timm", "--weights=ema"), "SimCLR keeps no moving average; use params"),
        ((out, "--to=timm", "--step=99"), "99"),
        ((out, "--to=keras"), "keras"),
    ):
        done = run(trained, *arguments, module="export", check=False)
        assert done.returncode == 1 and message in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()
    experiment = build(trained)
    for source, message in (
        (f"{tmp_path}/nothing.pth", "there is no file"),
        (f"{trained}@x", "after @ stands a step"),
        (f"{trained}@77", "77"),
    ):
        with pytest.raises(UserError, match=message):
            init_from.load(source, experiment)
    config = config_lib.resolve(config_lib.load(f"{CONFIGS}/simclr.py:digits"))
    other = Experiment.build(config, data.spec_from_config(config.data))
    with pytest.raises(UserError, match="does not fit this run.s encoder, which lacks params"):
        init_from.load(str(trained), other)


def test_a_library_that_cannot_be_imported_is_named_with_the_reason(tmp_path, monkeypatch):
    (tmp_path / "fits_nothing.py").write_text(
        "def __getattr__(name):\n"
        "    try:\n"
        "        raise RuntimeError('operator x::y does not exist\\nand more')\n"
        "    except RuntimeError as error:\n"
        "        raise ModuleNotFoundError('could not import') from error\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert torch_models.missing("json", "fits_nothing") is None
    assert torch_models.missing("fits_nothing", "json", needed="loads") is None
    assert torch_models.missing("json", "there_is_no_such_thing") == (
        "there_is_no_such_thing is not installed"
    )
    assert torch_models.missing("json", "fits_nothing", needed="Net") == (
        "fits_nothing is installed but cannot be imported (operator x::y does not exist)"
    )


@pytest.mark.parametrize(
    ("library", "depth", "width", "message"),
    [
        ("torchvision", 200, 1, "it has no resnet200"),
        ("torchvision", 50, 2, "it has no ResNet whose first layer has 128 channels"),
        ("timm", 50, 0.125, "it has no ResNet whose first layer has 8 channels"),
        ("timm", 200, 1, None),
        ("torchvision", 18, 1, None),
    ],
)
def test_a_net_that_the_library_does_not_have_is_not_compared(library, depth, width, message):
    assert torch_models.no_such_model(library, ResNet(depth=depth, width=width)) == message
