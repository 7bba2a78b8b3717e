"""Opening data sets by name and by config."""

import numpy as np
import pytest
from PIL import Image

from ssl_jax import data
from ssl_jax.config import base_config
from ssl_jax.core.errors import UserError
from ssl_jax.data.kinds import digits, shapes
from ssl_jax.data.tfds.facts import FACTORS, FACTS

TWO_CROPS = {"global": {"count": 2}}


def section(**values):
    config = base_config().data
    with config.unlocked():
        options = values.pop("options", {})
        config.update(values)
        config.options.update(options)
    return config


@pytest.mark.parametrize(
    "values",
    [
        {"name": "digits"},
        {"name": "digits", "split": "test[:50%]", "image_size": 16, "channels": 3},
        {"name": "digits", "split": "all"},
        {"name": "shapes", "options": {"num_generated": 30}},
        {"name": "lesions", "split": "train+test", "options": {"num_generated": 10}},
        {"name": "lesions", "split": "test", "options": {"num_generated": 15, "label": "grade"}},
        {"name": "shapes", "split": "test", "options": {"num_generated": 30, "label": "hue"}},
    ],
)
def test_the_spec_without_the_data_is_the_spec_with_them(values):
    config = section(**values)
    source = data.from_config(config)
    assert data.spec_from_config(config) == source.spec
    batch = source.batch(np.arange(3))
    for key, shape in source.spec.batch(3).items():
        assert batch[key].shape == shape.shape and batch[key].dtype == shape.dtype


def test_a_config_reaches_the_source(tmp_path):
    for i in range(20):
        folder = tmp_path / "ab"[i % 2]
        folder.mkdir(exist_ok=True)
        Image.new("L", (20, 30)).save(folder / f"{i}.png")
    (tmp_path / "a" / "broken.png").write_text("")
    config = section(
        name=f"folder:{tmp_path}", split="all", image_size=8, channels=1, strict=True,
        options={"center": 0.5},
        host_crops={"global": {"count": 2, "scale": (0.5, 0.6)}, "local": {"count": 3, "size": 4}},
    )  # fmt: skip
    source = data.from_config(config)
    assert source.canvas.shapes == {"image/global": (2, 8, 8, 1), "image/local": (3, 4, 4, 1)}
    assert len(source) == 21
    assert all(part.strict for part in source.parts)
    assert source.canvas.crops["global"].scale == (0.5, 0.6) and source.canvas.center == 0.5
    spec = source.spec
    assert {name: spec.arrays[name].shape for name in spec.arrays if "image" in name} == (
        source.canvas.shapes
    )
    assert spec.evaluated.arrays["image"].shape == (8, 8, 1)
    assert "image/global" not in spec.evaluated.arrays
    assert source.name == f"folder:{tmp_path}[all]"
    with pytest.raises(UserError, match="has to be read to know its size; set data.num_examples"):
        data.spec_from_config(config)
    with config.unlocked():
        config.num_examples, config.num_classes = 21, 2
    assert data.spec_from_config(config) == source.spec


def test_the_seed_reaches_generated_data():
    config = section(name="shapes", options={"num_generated": 5})
    first, second = (data.from_config(config, seed=seed).factors for seed in (0, 1))
    assert (first != second).any()


def test_paper_scale_specs_need_no_data():
    spec = data.spec_from_config(
        section(name="tfds:imagenet2012", image_size=224, host_crops=TWO_CROPS)
    )
    assert spec.num_examples == 1_281_167 and spec.num_classes == 1000
    assert spec.arrays["image/global"].shape == (2, 224, 224, 3)
    spec = data.spec_from_config(section(name="tfds:voc/2007", image_size=224, split="train"))
    assert spec.num_classes is None and spec.arrays["labels"].shape == (20,)
    spec = data.spec_from_config(section(name="tfds:cifar10:3.0.2", split="train[:90%]"))
    assert spec.num_examples == 45_000 and spec.arrays["image"].shape == (32, 32, 3)
    spec = data.spec_from_config(section(name="tfds:mine", image_size=64, num_examples=9))
    assert spec.num_examples == 9 and spec.num_classes is None


def test_known_facts_are_the_facts(tmp_path):
    for split, size in digits.SIZES.items():
        assert len(data.load("digits", split)) == size
    for split, size in shapes.sizes(33).items():
        assert len(data.load("shapes", split, num_generated=33)) == size
    tfds = pytest.importorskip("tensorflow_datasets")
    for name, facts in FACTS.items():
        features = tfds.builder(name, data_dir=tmp_path).info.features
        _, label = FACTORS.get(name, ((), "label"))
        classes = features[label].num_classes if label in features else None
        height, width, channels = features["image"].shape
        assert (classes, channels) == (facts.num_classes, facts.channels)
        assert facts.image_size == (height if height == width else None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digitz", "unknown data set 'digitz'; did you mean 'digits'? `ssl_jax list data` prints"),
        ("foldr:/x", "did you mean 'folder:/x'? `ssl_jax list data` prints all"),
        ("foldr", "did you mean 'folder:PATH'? `ssl_jax list data` prints all"),
        ("digitz:8", "did you mean 'digits'? `ssl_jax list data` prints all"),
        ("qqqq", "unknown data set 'qqqq'; `ssl_jax list data` prints all"),
        ("digits:8", "data set 'digits:8' takes nothing behind it; write digits"),
        ("folder", "data set 'folder' is not complete; write folder:PATH"),
        ("folder:", "data set 'folder:' names nothing; write folder:PATH"),
        ("/data/images", "a path has its kind in front, e.g. folder:/data/images or text:/data"),
    ],
)  # fmt: skip
def test_unknown_data_sets(name, message):
    for call in (data.load, data.splits, lambda name: data.spec_from_config(section(name=name))):
        with pytest.raises(UserError) as caught:
            call(name)
        assert message in str(caught.value) and "\n" not in str(caught.value)
        assert len(str(caught.value)) < 160


def test_unknown_options_and_splits():
    with pytest.raises(UserError, match="unknown config key data.options.image_sise"):
        data.load("digits", image_sise=3)
    with pytest.raises(UserError, match="unknown split 'validation'; splits: train, test"):
        data.load("digits", "validation")
    with pytest.raises(UserError, match="unknown split 'val'; splits: train, test"):
        data.spec_from_config(section(split="val"))
    with pytest.raises(UserError, match="data.channels is 2; it must be 1 or 3"):
        data.load("digits", channels=2)
    with pytest.raises(UserError, match="data.image_size is not set"):
        data.spec_from_config(section(name="tfds:imagenet2012"))


def test_a_small_part_does_not_keep_all_images_in_memory():
    whole = data.load("digits")
    part = whole.select(100, 200)
    assert part.images.base is None and part.images.nbytes * 10 < whole.images.nbytes
    np.testing.assert_array_equal(part.images, whole.images[100:200])
    assert np.shares_memory(whole.select(0, len(whole) - 1).images, whole.images)  # no copy


def test_parts_joined():
    source = data.load("digits", "test[:5]+train[10:13]")
    train, test = data.load("digits"), data.load("digits", "test")
    np.testing.assert_array_equal(source.images[:5], test.images[:5])
    np.testing.assert_array_equal(source.images[5:], train.images[10:13])
    assert len(source) == 8 and source.in_memory and source.name == "digits[test[:5]+train[10:13]]"
    both = data.load("shapes", "all", num_generated=10)
    assert both.factors.shape == (12, 7)


def test_parts_of_encoded_images_joined(tmp_path):
    for split, base in (("train", 0), ("test", 100)):
        (tmp_path / split).mkdir()
        for i in range(6):
            Image.new("L", (4, 4), base + i).save(tmp_path / split / f"{i}.png")
    (tmp_path / "test" / "bad.png").write_text("")
    source = data.load(f"folder:{tmp_path}", "train+test", image_size=4)
    order = np.random.default_rng(0).permutation(13)
    batch = source.batch(order)
    np.testing.assert_array_equal(batch["index"], order)
    for row, index in enumerate(order):
        name = source.names[index]
        if name != "bad.png":
            assert batch["image"][row, 0, 0, 0] == int(name[0]) + 100 * (index >= 6)
    assert [name.endswith("bad.png") for name in source.problems] == [True]
    (whole,) = data.epoch_batches(source, 13)
    assert [source.names[i] for i in np.flatnonzero(~whole["mask"])] == ["bad.png"]


def test_a_cache_holds_what_it_would_read(tmp_path):
    for i in range(25):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.new("L", (5 + i, 5), 10 * i).save(tmp_path / "ab"[i % 2] / f"{i}.png")
    (tmp_path / "a" / "bad.png").write_text("")
    read, kept = (
        data.load(f"folder:{tmp_path}", "all", image_size=4, cache=cache) for cache in (False, True)
    )
    assert kept.in_memory and not read.in_memory and kept.spec == read.spec
    assert list(kept.names) == list(read.names) and kept.name == read.name
    for here, there in zip(
        data.epoch_batches(kept, 4), data.epoch_batches(read, 4), strict=True
    ):  # fmt: skip
        for key in here:
            np.testing.assert_array_equal(here[key], there[key])
    assert kept.problem_summary() == read.problem_summary() is not None
    with pytest.raises(UserError, match="cache keeps one image .* data.host_crops .*global"):
        data.load(f"folder:{tmp_path}", image_size=4, cache=True, host_crops=TWO_CROPS)


def test_center_crops_the_middle():
    whole, middle = (data.load("digits", center=center, image_size=4) for center in (1.0, 0.5))
    native = data.load("digits")
    np.testing.assert_array_equal(middle.images, native.images[:, 2:6, 2:6])
    assert (whole.images != middle.images).any()
