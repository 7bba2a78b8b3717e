"""tfds: mocked, and a tiny data set really prepared, as ArrayRecord, without TensorFlow."""

import dataclasses
import importlib
import json
import sys

import numpy as np
import pytest

from ssl_jax import data
from ssl_jax.core.errors import UserError
from ssl_jax.data import class_names
from ssl_jax.data.few_labels import FewLabels
from ssl_jax.data.image import Canvas
from ssl_jax.data.request import Request
from ssl_jax.data.tfds import images

tfds = pytest.importorskip("tensorflow_datasets")

BUILDER = """
import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def encoded(value, size):
    file = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(file, "png")
    file.seek(0)
    return file


class Builder(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["even", "odd"]),
            "id": tfds.features.Scalar(np.int64),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, download_manager):
        return {"train": self._generate_examples(20), "test": self._generate_examples(7)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"image": encoded(10 * i, (12 + i, 10)), "label": i % 2, "id": i}
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data directory with the data set `tiny_shades` in it."""
    root = tmp_path_factory.mktemp("tfds")
    package = root / "code" / "tiny_package" / "tiny_shades"
    package.mkdir(parents=True)
    for path, text in (
        (package.parent / "__init__.py", ""),
        (package / "__init__.py", ""),
        (package / "tiny_shades_dataset_builder.py", BUILDER),
        (package / "README.md", "Shades of grey."),
        (package / "CITATIONS.bib", ""),
        (package / "TAGS.txt", ""),
    ):
        path.write_text(text)
    sys.path.insert(0, str(root / "code"))
    module = importlib.import_module("tiny_package.tiny_shades.tiny_shades_dataset_builder")
    builder = module.Builder(data_dir=root / "data", file_format="array_record")
    builder.download_and_prepare()
    yield root / "data"
    sys.path.remove(str(root / "code"))


def load(prepared, split="train", **options):
    return data.load("tfds:tiny_shades", split, data_dir=str(prepared), image_size=8, **options)


def values(source):
    batch = source.batch(np.arange(len(source)))
    assert (batch["index"] == np.arange(len(source))).all()
    return dict(zip(batch["image"][:, 4, 4, 0].tolist(), batch["label"].tolist(), strict=True))


def test_a_prepared_data_set(prepared):
    source = load(prepared)
    assert values(source) == {10 * i: i % 2 for i in range(20)}
    assert source.num_classes == 2 and source.class_names == ("even", "odd")
    assert source.spec.num_examples == 20 and source.spec.arrays["image"].shape == (8, 8, 3)
    assert len(load(prepared, "test")) == 7 and len(load(prepared, "all")) == 27


def test_classes_are_matched_by_their_names_if_they_have_any(prepared):
    renumbered = class_names.matched(load(prepared), ("odd", "even"))
    assert values(renumbered) == {10 * i: 1 - i % 2 for i in range(20)}
    part = renumbered.select(4, 9)
    assert len(values(part)) == 5 and values(part).items() <= values(renumbered).items()
    named = tfds.features.ClassLabel(names=["odd", "even"])
    numbers = tfds.features.ClassLabel(num_classes=3)  # TFDS calls them 0, 1 and 2
    assert images._class_names(named) == ("odd", "even")
    assert images._class_names(numbers) is None


def test_sub_splits_are_tfds_own(prepared):
    builder = tfds.builder("tiny_shades", data_dir=prepared)
    for text in ("train[:33%]", "train[33%:]", "train[-7:]", "test[2:5]", "train[5:8]+test[:2]"):
        record = builder.as_data_source(split=text)
        expected = [int(record[i]["image"][0, 0, 0]) for i in range(len(record))]
        source = load(prepared, text)
        batch = source.batch(np.arange(len(source)))
        assert batch["image"][:, 4, 4, 0].tolist() == expected, text


def test_host_crops_are_of_the_original(prepared):
    families = {"global": {"count": 2}, "local": {"count": 3, "size": 4}}
    source = load(prepared, host_crops=families)
    assert isinstance(source._example(0)[0], bytes)  # not decoded by TFDS first
    batch = source.batch(np.arange(4), seed=1, step=2)
    assert batch["image/global"].shape == (4, 2, 8, 8, 3)
    assert batch["image/local"].shape == (4, 3, 4, 4, 3) and "image" not in batch


@pytest.mark.slow
def test_worker_processes_read_the_same(prepared):
    source = load(prepared, "train[2:]")
    streams = [
        list(data.batches(source, batch_size=8, seed=0, num_steps=3, workers=workers))
        for workers in (0, 1)
    ]
    for here, there in zip(*streams, strict=True):
        for key in here:
            np.testing.assert_array_equal(here[key], there[key])


@pytest.mark.parametrize("split", ["train", "train[3:]+test"])
def test_few_labels_without_decoding(prepared, split, monkeypatch):
    whole = load(prepared, split)
    assert whole.labels is None
    expected = whole.batch(np.arange(len(whole)))["label"]
    with monkeypatch.context() as patch:
        patch.setattr(Canvas, "render", lambda *_: pytest.fail("an image is decoded"))
        np.testing.assert_array_equal(whole.read_labels(), expected)
        assert whole.read_labels() is whole.labels  # once
        part = FewLabels(0.25, seed=1).select(whole)
    assert len(part) == round(0.25 * len(whole)) and part.available == len(whole)
    assert abs(np.bincount(part.labels)[0] - np.bincount(part.labels)[1]) <= 1
    batch = part.batch(np.arange(len(part)))
    # An image's grey is ten times its number, and the number's parity its label.
    np.testing.assert_array_equal(batch["label"], batch["image"][:, 4, 4, 0] // 10 % 2)
    np.testing.assert_array_equal(batch["label"], part.labels)
    kept = FewLabels(0.25, "keep", seed=1).select(whole)
    batch = kept.batch(np.arange(len(kept)))
    assert (batch["label"] >= 0).sum() == len(part) and len(batch["label"]) == len(whole)
    rows = batch["label"] >= 0
    np.testing.assert_array_equal(batch["label"][rows], expected[rows])
    with pytest.raises(UserError, match="the labels of tfds:.* cannot be read: KeyError"):
        label_less = dataclasses.replace(load(prepared), label_key="lebal")
        label_less.read_labels()


def test_mocked_data():
    with tfds.testing.mock_data(num_examples=6):
        source = data.load("tfds:mnist")
    batch = source.batch(np.arange(6))
    assert batch["image"].shape == (6, 28, 28, 1) and source.num_classes == 10
    assert len(np.unique(batch["image"])) > 100
    assert ((batch["label"] >= 0) & (batch["label"] < 10)).all()
    with tfds.testing.mock_data(num_examples=6):
        again = data.load("tfds:mnist").batch(np.arange(6))
    np.testing.assert_array_equal(batch["image"], again["image"])
    np.testing.assert_array_equal(source.read_labels(), batch["label"])


def test_not_prepared(tmp_path):
    with pytest.raises(UserError) as caught:
        data.load("tfds:mnist", data_dir=str(tmp_path))
    text = str(caught.value)
    assert "\n" not in text and str(tmp_path) in text
    assert f"tfds.builder('mnist', data_dir='{tmp_path}'" in text
    assert "file_format='array_record').download_and_prepare()" in text
    assert "pip install tensorflow" in text


def test_prepared_as_tfrecord(prepared, tmp_path):
    folder = tmp_path / "tiny_shades" / "1.0.0"
    folder.mkdir(parents=True)
    for path in (prepared / "tiny_shades" / "1.0.0").iterdir():
        name = path.name.replace("array_record", "tfrecord")
        (folder / name).write_bytes(path.read_bytes())
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    for split in info["splits"]:
        split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="tfrecord files.*convert it: tfds convert_for") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tfds:mnst", {}, "TFDS has no data set 'mnst'. Did you mean 'mnist'?"),
        ("tfds:", {}, "names nothing; write tfds:NAME"),
        ("tfds:mnist:0.0.1", {}, "tfds:mnist:0.0.1: "),
    ],
)
def test_unknown_names(tmp_path, name, options, message):
    with pytest.raises(UserError) as caught:
        data.load(name, data_dir=str(tmp_path), **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_key": "picture"}, "image_key 'picture' is not one of image."),
        ({"label_key": "id"}, "label_key 'id' is not one of label"),
        ({"split": "trian"}, "unknown split 'trian'; splits: train, test. Did you mean 'train'?"),
    ],
)
def test_bad_options(prepared, options, message):
    with pytest.raises(UserError) as caught:
        load(prepared, **options)
    assert message in str(caught.value)


def test_difficult_labels_of_voc_are_unknown(tmp_path, monkeypatch):
    builder = tfds.builder("voc/2007", data_dir=tmp_path)
    records = [
        {"labels": np.array([3, 7]), "labels_no_difficult": np.array([7])},
        {"labels": np.array([0]), "labels_no_difficult": np.array([0])},
        {"labels": np.array([19]), "labels_no_difficult": np.array([], int)},
    ]

    class Records(list):
        decoders = None

    monkeypatch.setattr(
        "ssl_jax.data.tfds.records.open_records", lambda *arguments: Records(records)
    )
    opened = images.TfdsDataset(tfds, "voc/2007", builder, Request(image_size=8), None, None)
    source = opened.source("test")
    assert source.label_names[7] == "cat" and source.num_classes is None
    assert [np.flatnonzero(row == 1).tolist() for row in source.label_matrix] == [[7], [0], []]
    assert [np.flatnonzero(row == -1).tolist() for row in source.label_matrix] == [[3], [], [19]]
    assert source.spec.arrays["labels"].shape == (20,)
    part = source.select(1, 3)
    assert np.flatnonzero(part.label_matrix[0] == 1).tolist() == [0]
