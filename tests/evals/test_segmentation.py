"""Segmentation through a prober, on masks that `shapes` renders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import parallel
from ssl_jax.core.errors import UserError
from ssl_jax.evals import segmentation
from ssl_jax.evals.dense import pixels
from ssl_jax.evals.model import Model
from ssl_jax.run.probing import Prober
from tests.methods.table import ROWS

OPTIONS = {
    "eval__batch_size": 48, "eval__segmentation__steps": 60, "eval__segmentation__ks": (1, 5),
    "eval__segmentation__learning_rates": (1e-4, 3e-2),
}  # fmt: skip
SHAPES = {"data__name": "shapes", "data__options": {"num_generated": 120}, "data__image_size": 16}


def prober(**changes):
    return Prober(ROWS["simclr"].load(**{**SHAPES, **OPTIONS, **changes}), parallel.make_mesh())


@pytest.fixture(scope="module")
def shapes():
    return prober()


def oracle(source):
    """A model whose patches know the shares of their classes."""
    classes = len(source["train"].masks.classes)

    def layers(batch, names):
        return dict.fromkeys(names, jnp.asarray(known(batch)))

    def known(batch):
        image, index = np.asarray(batch["image"]), np.asarray(batch["index"])
        out = np.zeros((len(image), 64, classes), np.float32)
        for split in source.values():
            rows = np.flatnonzero([
                0 <= i < len(split)
                and np.array_equal(image[row], split.images[i])
                for row, i in enumerate(index)
            ])  # fmt: skip
            counts = pixels.cell_counts(split.masks.read(index[rows]), (8, 8), classes)
            out[rows] = counts / counts.sum(axis=-1, keepdims=True)
        return out + 0.01

    return Model(None, layer_outputs=layers)


def test_features_that_know_the_classes_beat_pixels(shapes):
    model = oracle({"train": shapes.train, "test": shapes.test})
    got = shapes.evaluate(model, ["segmentation"])
    got = {name.removeprefix("segmentation/"): value for name, value in got.items()}
    assert got["knn_miou"] > 0.7 and got["linear_miou"] > 0.6
    for name in ("knn", "linear"):
        each = [value for key, value in got.items() if key.startswith(f"{name}_iou_")]
        assert len(each) == 7 and np.mean(each) == pytest.approx(got[f"{name}_miou"])
    assert got["k"] in (1, 5) and got["learning_rate"] in (1e-4, 3e-2)
    raw = segmentation.baselines(model, shapes)["raw pixels"]
    assert set(raw) == set(got) and raw["knn_miou"] < got["knn_miou"] - 0.2


class Poisoned:
    """A test split whose masks must not be read before k and the rate are chosen."""

    def __init__(self, masks):
        self.masks, self.classes, self.reads = masks, masks.classes, []

    def read(self, indices):
        self.reads.append(len(indices))
        return np.full_like(self.masks.read(indices), 0)


def test_the_choice_never_sees_the_test_split(shapes):
    other = prober()
    model = oracle({"train": shapes.train, "test": shapes.test})
    clean = shapes.evaluate(model, ["segmentation"])
    other.test.masks = Poisoned(other.test.masks)
    poisoned = other.evaluate(model, ["segmentation"])
    for name in ("k", "learning_rate", "val_knn_miou", "val_linear_miou"):
        assert poisoned[f"segmentation/{name}"] == clean[f"segmentation/{name}"]
    assert other.test.masks.reads and poisoned["segmentation/knn_miou"] < 0.5


def test_it_needs_masks_and_a_grid(shapes):
    digits = Prober(ROWS["simclr"].load(data__name="digits"), parallel.make_mesh())
    with pytest.raises(UserError, match="evaluation 'segmentation' needs 'masks', but digits has"):
        digits.evaluations(["segmentation"])
    model = Model(None, layer_outputs=lambda batch, names: dict.fromkeys(
        names, jnp.zeros((len(batch["image"]), 7, 2))))  # fmt: skip
    with pytest.raises(UserError, match="7 positions of eval.segmentation.feature"):
        shapes.evaluate(model, ["segmentation"])
    with pytest.raises(UserError, match="leaves none to fit on"):
        segmentation._check_counts(2, 0.1)


@pytest.mark.slow
def test_eight_devices_measure_the_same(shapes):
    model = oracle({"train": shapes.train, "test": shapes.test})
    one = Prober(shapes.config, parallel.make_mesh(devices=jax.devices()[:1]))
    with jax.set_mesh(one.mesh):
        alone = one.evaluate(model, ["segmentation"])
    got = shapes.evaluate(model, ["segmentation"])
    for name, value in got.items():
        assert value == pytest.approx(alone[name], abs=1e-3), name
