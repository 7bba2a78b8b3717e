"""Classes are numbered in one order, and data sets with the same names are matched by them."""

import json

import numpy as np
import pytest
from PIL import Image

from ssl_jax import data
from ssl_jax.config import base_config
from ssl_jax.core.errors import UserError
from ssl_jax.data import class_names

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def colour_folders(root, names=None, count=4):
    """Images of one colour each in class folders below train/ and test/."""
    for colour, name in (names or {colour: colour for colour in COLOURS}).items():
        for split in ("train", "test"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8), COLOURS[colour]).save(folder / f"{i}.png")
    return f"folder:{root}"


def section(name, **values):
    config = base_config().data
    config.update(name=name, image_size=8, **values)
    return config


def colours_of(source):
    """Name of a colour -> the classes of its images."""
    batch = source.batch(np.arange(len(source)))
    found = {}
    for image, label in zip(batch["image"], batch["label"], strict=True):
        colour = next(name for name, rgb in COLOURS.items() if tuple(image[0, 0]) == rgb)
        found.setdefault(colour, set()).add(source.class_names[label])
    return found


def test_the_order_is_natural():
    expected = ("0", "1", "2", "10", "11")
    assert class_names.in_order(sorted(expected)) == expected == class_names.in_order(expected)
    names = ["b10", "B2", "b", "a", "Red", "red", "2", "-1", "02", "blue"]
    ordered = ("-1", "02", "2", "a", "b", "B2", "b10", "blue", "Red", "red")
    assert class_names.in_order(names) == class_names.in_order(names[::-1]) == ordered


def test_folders_and_labels_of_files_have_the_same_order(tmp_path):
    names = ("0", "1", "2", "10", "11")
    for name in names:
        for i in range(6):
            (tmp_path / "images" / name).mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4)).save(tmp_path / "images" / name / f"{i}.png")
    rows = [{"text": f"text {i} of {name}", "label": name} for name in names for i in range(9)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "t.csv").write_text(
        "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows)
    )
    options = dict(task="classify", tokenizer="wordpiece", vocab_size=60, sequence_length=16)
    assert data.load(f"folder:{tmp_path}/images", image_size=4).class_names == names
    for path in ("jsonl:{}/t.jsonl", "csv:{}/t.csv"):
        assert data.load(path.format(tmp_path), **options).class_names == names


def test_a_permutation_is_renumbered_and_other_names_are_not(tmp_path):
    source = data.from_config(section(colour_folders(tmp_path)))
    assert source.class_names == ("blue", "green", "red")
    for names in (("red", "green", "blue"), ("green", "blue", "red")):
        renumbered = class_names.matched(source, names)
        assert renumbered.class_names == names and renumbered.num_classes == 3
        assert colours_of(renumbered) == {name: {name} for name in COLOURS}
        in_memory = data.in_memory(renumbered)
        assert colours_of(in_memory.select(0, 5).joined([in_memory.select(5, 12)])) == {
            name: {name} for name in COLOURS
        }
    for names in (None, ("Red", "blue", "green"), ("green", "red"), ("a", "b", "c")):
        assert class_names.matched(source, names) is source
    # The order may be set; then the names have to be these.
    ordered = data.from_config(
        section(source.name.partition("[")[0], class_names=("red", "green", "blue"))
    )
    assert colours_of(ordered) == {name: {name} for name in COLOURS}
    with pytest.raises(UserError, match="class_names is red, green, and the classes of folder:"):
        data.from_config(section(source.name.partition("[")[0], class_names=("red", "green")))


def test_names_are_shown_shortened():
    assert class_names.shown(("a", "b")) == "a, b"
    many = [f"class {i}" for i in range(200)]
    assert class_names.shown(many).endswith("class 7, ... (200 classes)")
    assert class_names.numbers_in(("a", "a"), ("a", "a")).tolist() == [0, 1]
    assert class_names.numbers_in(("a", "b", "a"), ("a", "a", "b")) is None  # which a is which?
