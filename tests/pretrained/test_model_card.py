"""Model cards and folders for other libraries, of runs that were never trained."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from ssl_jax import data, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.experiment.build import Experiment
from ssl_jax.models import make_encoder
from ssl_jax.pretrained import export, model_card, weight_files
from ssl_jax.pretrained.formats import timm_config
from ssl_jax.pretrained.model_card import Facts
from ssl_jax.pretrained.trained_run import TrainedRun
from tests.methods.table import ROWS

RESULTS = {
    "step": 7,
    "best_step": 5,
    "results": {
        "raw pixels": {"knn/top1": 0.91, "knn/k": 20.0},
        "untrained encoder": {"knn/top1": 0.5, "few_shot/1": 0.2, "few_shot/1_std": 0.05},
        "SimCLR": {"knn/top1": 0.956, "few_shot/1": 0.7123, "few_shot/1_std": 0.031},
    },
}
NORMALIZE = {
    "views__ops": ("random_resized_crop", "normalize"),
    "views__normalize": {"mean": (0.5,), "std": (0.25,)},
    "views__random_resized_crop__size": 16,
}


def run_of(row="simclr", **changes):
    """A run as if it had been trained and loaded."""
    config = ROWS[row].load(**changes)
    source = data.from_config(config.data, seed=0)
    config = data.with_facts(config, source.spec, class_names=source.class_names)
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    experiment = Experiment.build(config, source.spec, mesh)
    return TrainedRun(config, experiment, 7, experiment.init_state().weights, "runs/x")


@pytest.fixture(scope="module")
def run():
    return run_of(**NORMALIZE)


def test_a_card_has_config_data_scores_licence_and_how_to_load_it(run, tmp_path):
    lines = list(export.export(run, "hf", str(tmp_path / "mine"), Facts("apache-2.0", RESULTS)))
    assert lines[-1] == f"{tmp_path}/mine/README.md: model card, for ssl_jax"
    card = (tmp_path / "mine" / "README.md").read_text()
    header = dict(re.findall(r"^(\w+): (.+)$", card.split("---")[1], re.MULTILINE))
    assert header == {
        "license": "apache-2.0", "library_name": "ssl_jax",
        "pipeline_tag": "image-feature-extraction",
    }  # fmt: skip
    assert "- self-supervised-learning\n- simclr\n" in card
    assert "| | kNN, % | 1-shot, % |\n|---|---|---|\n" in card
    assert "| raw pixels | 91.0 |  |\n" in card
    assert "| untrained encoder | 50.0 | 20.0 ± 5.0 |\n" in card
    assert "| SimCLR | 95.6 | 71.2 ± 3.1 |\n" in card
    assert "step 5" in card and "The weights in this folder are those of step 7." in card
    assert "`digits`, split `train`, 1,438 images, 10 classes" in card
    assert "grey images of 16x16 pixels, standardised by channel. Values in [0, 1] minus" in card
    assert "minus mean (0.5,), divided by deviation (0.25,)" in card
    assert "--config.init_from=mine\n```" in card
    config = json.loads(re.search(r"```json\n(.*?)```", card, re.DOTALL)[1])
    assert config["method"]["name"] == "simclr" and config["model"]["name"] == "convnet"
    assert "eval" not in config and config["views"]["normalize"]["mean"] == [0.5]


def test_views_with_changes_of_their_own_are_exported():
    """The normalisation is that of the first view."""
    own = run_of("moco-v3-vit")
    assert "1" in own.config.views.overrides and own.normalization is None
    changes = {**NORMALIZE, "views__overrides": {"1": {"ops": ("random_resized_crop",)}}}
    assert run_of(**changes).normalization == ((0.5,), (0.25,))


def test_without_results_and_licence_the_card_says_so(run):
    card = model_card.card(run, "out", "ssl_jax", Facts())
    assert "- labels in training: none" in card
    assert "license: unknown\n" in card and "The run has no final results." in card
    assert "Not stated. The licence of the weights may depend on that of the data" in card
    with pytest.raises(UserError, match="--license='my own' is no identifier") as told:
        next(export.export(run, "hf", "out", Facts("my own")))
    assert "\n" not in str(told.value)


def test_a_card_tells_of_methods_that_learn_from_labels():
    card = model_card.card(run_of("metric-triplet"), "out", "ssl_jax", Facts())
    assert "- labels in training: yes" in card


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("resnet18", {}, ("resnet18", 512)),
        ("resnet50", {}, ("resnet50", 2048)),
        ("resnet18", {"stem": "cifar"}, None),
        ("resnet50", {"width": 2}, None),
        ("resnet50", {"sk_ratio": 0.0625}, None),
        ("vit_s16", {}, ("vit_base_patch16_224", 384)),
        ("vit_s14", {"num_registers": 4}, None),
        ("convnet", {}, None),
    ],
)
def test_what_timm_has(name, options, expected):
    module = make_encoder(name, **options).module
    got = timm_config.description(module, (32, 32, 3), ((0.5,) * 3, (0.2,) * 3))
    if expected is None:
        assert got is None
        return
    assert (got["architecture"], got["num_features"]) == expected and got["num_classes"] == 0
    assert got["pretrained_cfg"]["input_size"] == [3, 32, 32]
    assert got["pretrained_cfg"]["std"] == [0.2] * 3
    timm_config.check(got, module)  # we read what we write


def test_timm_gets_the_arguments_of_the_vit():
    module = make_encoder(
        "vit_s16", patch_size=4, dim=48, depth=3, num_heads=4, pool="mean", layer_scale=1e-5
    ).module
    got = timm_config.description(module, (16, 16, 1), None)["model_args"]
    assert got == {
        "img_size": 16, "patch_size": 4, "embed_dim": 48, "depth": 3, "num_heads": 4,
        "mlp_ratio": 4, "class_token": True, "qkv_bias": True, "fc_norm": False,
        "init_values": 1e-5, "global_pool": "avg",
    }  # fmt: skip


@pytest.mark.slow
def test_a_folder_for_timm_is_read_again(tmp_path):
    """By its names and its own description; a ResNet goes to timm with --to=hf, too."""
    overrides = {k: v for k, v in ROWS["simclr"].overrides.items() if k != "model.widths"}
    row = dataclasses.replace(ROWS["simclr"], overrides=overrides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ROWS, "resnet", row)
        run = run_of("resnet", model__name="resnet10")
        eighteen = run_of("resnet", model__name="resnet18")
    ten = tmp_path / "ten"
    assert list(export.export(run, "hf", str(ten)))[-1].endswith("model card, for ssl_jax")
    folder = tmp_path / "eighteen"
    lines = list(export.export(eighteen, "hf", str(folder)))
    assert lines[-1].endswith("model card, for timm")
    described = json.loads((folder / "config.json").read_text())
    assert described["architecture"] == "resnet18"
    assert described["ssl_jax"]["architecture"]["name"] == "resnet18"
    assert (
        'timm.create_model("local-dir:eighteen", pretrained=True)'
        in (folder / "README.md").read_text()
    )
    loaded, lines = weight_files.load(str(folder), eighteen.experiment)
    kernel = eighteen.weights.params["encoder"]["stem"]["conv"]["kernel"]
    np.testing.assert_array_equal(loaded["params"]["encoder/stem/conv/kernel"], kernel)
    assert "not found" not in "".join(lines)
