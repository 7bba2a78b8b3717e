"""`export --to=hf` of runs with a Vision Transformer; compared with the library if it is there."""

import importlib.util
import json

import jax
import numpy as np
import pytest

from ssl_jax.core.method import Weights
from ssl_jax.core.tree_paths import by_path
from ssl_jax.pretrained import formats, init_from
from ssl_jax.pretrained.export import export
from ssl_jax.pretrained.trained_run import TrainedRun
from tests.pretrained.formats.vits import MODELS, experiment_of, mae

LIBRARY = all(map(importlib.util.find_spec, ("torch", "transformers")))


def run_of(experiment):
    """A trained run whose every parameter is random."""
    rng = np.random.default_rng(0)
    shapes = experiment.abstract_state

    def draw(leaf):
        return rng.normal(size=leaf.shape, scale=0.3).astype(np.float32)

    weights = Weights(jax.tree.map(draw, shapes.params), jax.tree.map(draw, shapes.buffers), None)
    return TrainedRun(experiment.config, experiment, 3, weights, "runs/x")


def masked():
    return mae()


def registers():
    return experiment_of(MODELS["dinov2_with_registers"])


def dino():
    return experiment_of(dict(MODELS["vit"], drop_path=0.0), "dino-vit")


@pytest.mark.parametrize(
    ("make", "architecture", "left_out"),
    [
        (masked, "ViTMAEForPreTraining", None),
        (registers, "Dinov2WithRegistersModel", "head, projector"),
        (dino, "ViTModel", "projector, prototypes"),
    ],
)
def test_a_run_goes_out_and_in(make, architecture, left_out, tmp_path):
    experiment = make()
    run = run_of(experiment)
    *lines, card = export(run, "hf", str(tmp_path))
    assert card.endswith("README.md: model card, for transformers")
    assert lines[0].endswith(" arrays, step 3")
    if left_out:
        assert lines[1] == f"without {left_out}: {architecture} of transformers has no such nets"
    assert len(lines) == 2 + (left_out is not None)
    if LIBRARY:
        start, _, difference = lines[-1].rpartition(" ")
        assert start.startswith("compared with transformers on 8 images of digits: patch tokens")
        assert float(difference) <= 1e-4
    else:
        assert lines[-1].startswith("not compared with transformers: ")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == [architecture] and config["image_size"] == 16
    loaded, _ = init_from.load(str(tmp_path), experiment)
    params = by_path(run.weights.params)
    for path, leaf in loaded["params"].items():
        np.testing.assert_array_equal(leaf, params[path], err_msg=path)
    kept = {path for path in params if path.startswith(("encoder/", "decoder/"))}
    assert loaded["params"].keys() == kept
    names = formats.read(str(tmp_path / "model.safetensors"))
    decoders = [name for name in names if name.startswith("decoder.decoder_layers.")]
    assert bool(decoders) == (architecture == "ViTMAEForPreTraining")
    assert ("embeddings.mask_token" in names) == architecture.startswith("Dinov2")
