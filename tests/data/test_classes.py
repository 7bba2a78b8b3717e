"""Runs that see some classes, and evaluations that see the others, for every kind of source."""

import numpy as np
import pytest
from PIL import Image

from ssl_jax import data, parallel
from ssl_jax.config import base_config
from ssl_jax.core.errors import UserError
from ssl_jax.data import classes
from ssl_jax.data.kinds import shapes
from ssl_jax.experiment import preflight
from ssl_jax.experiment.build import Experiment
from ssl_jax.run.probing import Prober
from tests.data.test_few_labels import folder, section, shards
from tests.methods.table import ROWS

NAMES = ("cat", "dog", "bird", "fish", "42")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("train half", [0, 1]), ("test half", [2, 3, 4]), ("0-2", [0, 1, 2]), ("1, 3-4", [1, 3, 4]),
        ("not 0-2", [3, 4]), ("cat,fish", [0, 3]), ("not bird", [0, 1, 3, 4]), ("4", [4]),
    ],
)  # fmt: skip
def test_ways_to_write_classes(text, expected):
    assert classes.chosen(text, 5, NAMES).tolist() == expected
    unseen = classes.evaluated(text, "unseen")
    assert sorted([*expected, *classes.chosen(unseen, 5, NAMES)]) == list(range(5))
    assert classes.evaluated(text, "seen") == text
    assert classes.evaluated(unseen, "unseen") == text.strip()
    assert classes.evaluated(text, "all") is None is classes.evaluated(None, "unseen")


@pytest.mark.parametrize(
    "text, message",
    [
        ("3-9", "the classes are 0 to 4; write 'train half'"),
        ("4-2", "4-2 runs backwards"),
        ("horse", "'horse' is no class of the 5: cat, dog, bird, fish, 42"),
        ("brid", "Did you mean 'bird'?"),
        ("", "'' is no class of the 5"),
        ("0-4", "which is all of the 5 classes"),
        ("not 0-4", "which is none of the 5 classes"),
    ],
)  # fmt: skip
def test_bad_classes(text, message):
    with pytest.raises(UserError, match="data.classes is") as error:
        classes.chosen(text, 5, NAMES)
    assert message in str(error.value)


def test_a_single_class_has_no_half():
    with pytest.raises(UserError, match="none of the 1 classes"):
        classes.chosen("train half", 1)


@pytest.mark.parametrize("kind", [folder, shards])
def test_every_kind_of_source(kind, tmp_path):
    values = kind(tmp_path)
    if kind is folder:
        values["split"] = "all"
    whole = data.from_config(section(**values))
    labels = whole.read_labels()
    part = data.from_config(section(**values, classes="not 0"))
    rows = np.flatnonzero(labels > 0)
    assert 0 < len(part) == len(rows) < len(whole)
    assert part.num_classes == whole.num_classes - 1
    np.testing.assert_array_equal(part.read_labels(), labels[rows] - 1)
    batch, original = part.batch(np.arange(6)), whole.batch(rows[:6])
    np.testing.assert_array_equal(batch["image"], original["image"])
    np.testing.assert_array_equal(batch["label"], original["label"] - 1)
    if whole.class_names is not None:
        assert part.class_names == whole.class_names[1:]


def test_labels_are_needed(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "1.png")
    with pytest.raises(UserError, match=r"but folder:.* has no labels, so its classes"):
        data.from_config(section(name=f"folder:{tmp_path}", image_size=4, classes="train half"))
    text = ROWS["bert"].load().data
    with text.unlocked():
        text.classes = "train half"
    with pytest.raises(UserError, match="data.classes is for images, and .* is text"):
        data.from_config(text)


def test_spec_without_and_with_counts():
    few = section(name="digits", classes="train half")
    spec = data.spec_from_config(few)
    assert (spec.num_examples, spec.num_classes) == (721, 5)
    assert data.from_config(few).spec.num_examples == 721
    with few.unlocked():
        few.num_examples, few.num_classes = 700, 5
    assert data.spec_from_config(few).num_examples == 700
    tenth = section(name="digits", classes="train half", labelled_fraction=0.1)
    assert data.spec_from_config(tenth).num_examples == 72
    source = data.from_config(tenth)
    assert sorted(np.bincount(source.labels)) == [14, 14, 14, 15, 15]


def test_evaluations_see_the_other_classes():
    config = ROWS["simclr"].load(data__name="digits", data__classes="train half")
    source = data.from_config(config.data)
    assert source.num_classes == 5 and source.class_names == tuple("01234")
    config = data.with_facts(config, source.spec, source.available, source.class_names)
    assert (config.data.num_examples, config.data.num_classes) == (721, 5)
    again = data.from_config(config.data)  # as a run is continued
    np.testing.assert_array_equal(again.labels, source.labels)
    mesh = parallel.make_mesh()
    prober = Prober(config, mesh)
    assert prober.test.class_names == tuple("56789") and prober.num_classes == 5
    assert prober.train.class_names == tuple("56789")
    for which, names in (("seen", "01234"), ("all", "0123456789"), ("3,8", "38")):
        with config.unlocked():
            config.eval.classes = which
        assert Prober(config, mesh).test.class_names == tuple(names)
    assert prober.source("test", "seen").class_names == tuple("01234")
    other = Prober(config, mesh, "shapes")
    assert other.classes_of_run is None and other.test.num_classes == 6
    lines = preflight.text(preflight.lines(Experiment.build(config, source.spec)))
    assert "721 examples, 5 classes (train half)" in lines


def test_halves_of_combinations_have_every_shape_and_hue():
    source = data.load("shapes", "train", image_size=8, num_generated=600, label="combination")
    assert source.num_classes == 24 == len(set(source.class_names))
    assert np.bincount(source.labels, minlength=24).min() > 5
    for half in ("train half", "test half"):
        chosen = classes.chosen(half, 24)
        pairs = [shapes.COMBINATIONS[number] for number in chosen]
        assert {shape for shape, _ in pairs} == set(range(6))
        assert {hue for _, hue in pairs} == set(range(4))
    shape, hue = source.factors[:, 0], np.minimum(source.factors[:, 1] * 4, 3).astype(int)
    expected = [shapes.COMBINATIONS.index((int(s), h)) for s, h in zip(shape, hue, strict=True)]
    assert source.labels.tolist() == expected
    assert base_config().data.classes is None
