"""What images, text and audio say of themselves."""

import types

import numpy as np
import pytest

from ssl_jax import data, modalities
from ssl_jax.config import base_config
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Vocabulary
from ssl_jax.modalities.audio import AUDIO
from ssl_jax.modalities.base import OtherData
from ssl_jax.modalities.image import IMAGE
from ssl_jax.modalities.text import TEXT

WORDS = Vocabulary(100, 0, 1, 2, 3, 4, (0, 1, 2, 3, 4))


def test_every_modality_of_a_kind_is_there():
    for kind in data.kinds().values():
        assert kind.modalities and set(kind.modalities) <= set(modalities.MODALITIES)
    metrics = [modality.throughput_metric for modality in modalities.MODALITIES.values()]
    assert metrics == [
        "train/images_per_s", "train/tokens_per_s", "train/windows_per_s", "train/rows_per_s",
    ]  # fmt: skip


def test_batches_have_the_arrays_that_the_modality_names():
    shared = {"label", "index"}
    for name, options in (("digits", {}), ("shapes", {"num_generated": 4})):
        source = data.load(name, **options)
        assert set(source.batch(np.arange(2))) - shared <= set(IMAGE.batch)
        assert modalities.of(source.spec) is IMAGE
        assert source.units_per_example == IMAGE.units(source.spec) == 1


def test_batches_of_audio():
    source = data.load("speech", num_generated=2)
    batch = source.batch(np.arange(2))
    assert set(batch) - {"label", "index"} == set(AUDIO.batch)
    assert modalities.of(source.spec) is AUDIO and AUDIO.units(source.spec) == 1
    waveform = np.asarray(AUDIO.waveform(batch))
    np.testing.assert_array_equal(waveform, batch["audio"] / np.float32(32_768))
    config = data.with_facts(base_config(), source.spec).data
    assert config.options.targets == ("phone", "speaker") and config.num_classes == 16


def test_raw_pixels_are_the_baseline_of_images():
    image = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3) * 10
    features = IMAGE.raw_features({"image": image})["h"]
    np.testing.assert_allclose(features, image.reshape(2, 12) / np.float32(255), atol=1e-7)
    assert features.dtype == np.float32


def test_specs_without_data():
    crops = {"image/global": (2, 8, 8, 3)}
    spec = IMAGE.spec(crops, 10, 3, {"image": (16, 16, 3)})
    assert spec.arrays["image/global"].shape == (2, 8, 8, 3) and "image" not in spec.arrays
    assert spec.evaluated.arrays["image"].shape == (16, 16, 3)
    spec = TEXT.spec(24, WORDS, 10, None, {"next": ((), np.int32)}, None)
    assert list(spec.arrays) == ["tokens", "segment", "position", "next", "label", "index"]
    assert TEXT.units(spec) == 24 and spec.vocabulary is WORDS and modalities.of(spec) is TEXT


def test_a_config_keeps_the_facts_of_its_data():
    config = base_config()
    image = data.with_facts(config, IMAGE.spec({"image": (16, 12, 1)}, 10, 3)).data
    assert (image.num_examples, image.num_classes, image.channels) == (10, 3, 1)
    assert image.image_size is None  # it is not square
    spec = TEXT.spec(24, WORDS, 10, 2, {}, "classify")
    text = data.with_facts(config, spec, 40, ("no", "yes")).data
    assert text.num_examples == 40 and text.options.class_names == ("no", "yes")
    assert text.options.vocabulary.size == 100 and text.channels is None


def test_options_of_another_data_set():
    options = {"sequence_length": 24, "rows": "packed", "stride": 8, "class_names": ("a", "b")}

    def read(task, has_task, tokenizer="t.json"):
        return TEXT.options_elsewhere(options, OtherData("text:x", has_task, task, tokenizer))

    rows = {"sequence_length": 24, "tokenizer": "t.json"}
    assert read(None, True) == rows | {"rows": "packed"}
    labels = {"stride": 8, "class_names": ("a", "b"), "task": "classify"}
    assert read("classify", True) == rows | labels
    assert read("classify", False) == rows | {"rows": "padded"}
    with pytest.raises(UserError, match="text:x cannot be read: the run has no token"):
        read(None, True, None)
    assert IMAGE.options_elsewhere({"num_generated": 3}, OtherData("digits")) == {}
    heard = AUDIO.options_elsewhere({"window": 20480, "targets": ("phone",)}, OtherData("speech"))
    assert heard == {"window": 20480}


def test_a_method_of_another_modality_is_refused():
    config = types.SimpleNamespace(
        method=types.SimpleNamespace(name="simclr"), data=types.SimpleNamespace(name="pydoc")
    )
    modalities.require(config, TEXT.spec(24, WORDS, 10, None, {}), "text")
    with pytest.raises(UserError, match="method simclr is for data of modality image, but pydoc"):
        modalities.require(config, TEXT.spec(24, WORDS, 10, None, {}), "image")


def test_inputs_of_an_exported_encoder():
    spec = IMAGE.spec({"image": (16, 16, 3)}, 10, 3)
    resized = types.SimpleNamespace(eval_view=lambda images: images[:, :8, :8] / 255)
    assert IMAGE.describe_inputs(resized, spec) == {
        "image_size": 8, "input": "RGB, values in [0, 1]",
    }  # fmt: skip
    grey = IMAGE.spec({"image": (16, 16, 1)}, 10, 3)
    assert IMAGE.describe_inputs(resized, grey)["input"] == "grey, values in [0, 1]"
    inputs = TEXT.describe_inputs(None, TEXT.spec(24, WORDS, 10, None, {}, None))
    assert inputs["input"] == "tokens" and inputs["vocabulary"]["size"] == 100
