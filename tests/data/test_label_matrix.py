"""Images that can have several labels: the array `labels` through sources, cache and batches."""

import numpy as np
import pytest
from PIL import Image

from ssl_jax import data
from ssl_jax.core.errors import UserError
from ssl_jax.data.cache import in_memory
from ssl_jax.data.kinds import lesions
from ssl_jax.data.pipeline import epoch_batches

ROWS = {  # path -> labels in the file
    "a.png": ("1", "0"), "b.png": ("", "-1"), "c.png": ("0.0", "1.0"), "d.png": ("1", "1"),
    "e.png": ("-1.0", ""),
}  # fmt: skip
OPTIONS = {"image_size": 8, "label_keys": ("Edema", "Pleural Effusion"), "root": ".."}


@pytest.fixture
def folder(tmp_path):
    """Files as of CheXpert: paths from the folder above the tables."""
    top = tmp_path / "set"
    top.mkdir()
    for i, name in enumerate(ROWS):
        Image.new("L", (10, 10), 20 * i).save(top / name)
    for split in ("train", "valid"):
        lines = [f"set/{name},Male,{a},{b}" for name, (a, b) in ROWS.items()]
        (top / f"{split}.csv").write_text("\n".join(["Path,Sex,Edema,Pleural Effusion", *lines]))
    return top


def load(folder, split="train", **options):
    name = f"image_csv:{folder}/{{split}}.csv"
    return data.load(name, split, image_key="Path", **{**OPTIONS, **options})


def by_name(source):
    batch = source.batch(np.arange(len(source)))
    assert batch["labels"].dtype == np.int8 and (batch["label"] == -1).all()
    return {
        name.removeprefix("set/")[0]: tuple(labels)
        for name, labels in zip(source.names, batch["labels"].tolist(), strict=True)
    }


def test_a_table_of_labels(folder):
    source = load(folder)
    assert source.spec.arrays["labels"].shape == (2,) and source.num_classes is None
    assert source.label_names == ("Edema", "Pleural Effusion")
    assert by_name(source) == {"a": (1, 0), "b": (0, -1), "c": (0, 1), "d": (1, 1), "e": (-1, 0)}
    changed = by_name(load(folder, uncertain="present", blank="unknown"))
    assert changed == {"a": (1, 0), "b": (-1, 1), "c": (0, 1), "d": (1, 1), "e": (1, -1)}
    assert by_name(load(folder, "validation")) == by_name(source)
    assert by_name(load(folder, "test", uncertain="absent"))["e"] == (0, 0)


def test_labels_follow_their_images(folder):
    source = load(folder)
    expected = {name: source.label_matrix[i].tolist() for i, name in enumerate(source.names)}

    def check(part):
        batch = part.batch(np.arange(len(part)))
        for name, labels in zip(part.names, batch["labels"].tolist(), strict=True):
            assert labels == expected[name]

    check(source.select(1, 4))
    check(source.take(np.array([0, 2, 4])))
    check(load(folder, "train[:40%]+validation"))
    check(in_memory(source))
    (batch,) = epoch_batches(source, 8)
    assert (batch["labels"][5:] == -1).all() and not batch["mask"][5:].any()


def test_an_unreadable_image_has_the_labels_of_its_replacement(folder):
    source = load(folder)
    bad = source.names[1]
    (folder.parent / bad).write_text("no image")
    batch = source.batch(np.array([1]))
    assert batch["labels"].tolist() == [source.label_matrix[2].tolist()] and bad in str(
        source.problems
    )


def test_a_table_of_classes(folder):
    lines = [f"{name[0]},{['0', '1', '4', '4', '2'][i]}" for i, name in enumerate(ROWS)]
    (folder / "labels.csv").write_text("\n".join(["image,level", *lines]))
    name = f"image_csv:{folder}/labels.csv"
    source = data.load(name, "all", image_size=8, suffix=".png", label_key="level")
    # A class without an image has no number: names are as they are in the table.
    assert source.class_names == ("0", "1", "2", "4") and source.num_classes == 4
    labels = dict(zip(source.names, source.labels.tolist(), strict=True))
    assert labels == {"a.png": 0, "b.png": 1, "c.png": 3, "d.png": 3, "e.png": 2}
    options = {"image_size": 8, "suffix": ".png"}
    train = data.load(name, "train", **options)
    assert data.splits(name, **options) == ("train", "test") and set(train.names) <= labels.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_keys": ("Edemma",)}, "has no column 'Edemma'; .*Did you mean 'Edema'"),
        ({"label_keys": ("Sex",)}, "line .: 'Sex' is 'Male'; write 1, 0, -1"),
        ({"label_key": "Sex"}, "label_key is 'Sex' and .* set one of them"),
        ({"root": "."}, "lists .* which does not exist below"),
    ],
)
def test_bad_tables(folder, options, message):
    with pytest.raises(UserError, match=message) as caught:
        load(folder, **options)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="is not a file"):
        data.load(f"image_csv:{folder}/missing.csv", image_size=8)


def test_lesions_say_what_is_drawn():
    source = data.load("lesions", num_generated=300, prevalence=0.3)
    assert source.label_matrix.mean() == pytest.approx(0.3, abs=0.05)
    assert source.label_names == lesions.FINDINGS
    grades = data.load("lesions", num_generated=300, prevalence=0.3, label="grade")
    np.testing.assert_array_equal(grades.labels, np.minimum(source.label_matrix.sum(axis=1), 4))
    np.testing.assert_array_equal(grades.images, source.images)
    # Marks alone differ between an image with and without findings.
    numbers = lesions.draw_numbers(0, "train", 5)
    with_marks = lesions.render(numbers, np.ones((5, 5), np.int8), 64).astype(int)
    without = lesions.render(numbers, np.zeros((5, 5), np.int8), 64)
    changed = (with_marks != without).any(axis=-1).mean()
    assert 0.02 < changed < 0.25
    assert len(data.load("lesions", "test", num_generated=300)) == 60
