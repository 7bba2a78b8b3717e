"""tfds: sets of audio. Their features need TensorFlow, for which most tests stand in."""

import dataclasses
import importlib.util
import types

import numpy as np
import pytest

from ssl_jax import data
from ssl_jax.core.errors import UserError
from ssl_jax.data.audio.audio_source import AudioOptions
from ssl_jax.data.tfds.audio import TfdsAudio

tfds = pytest.importorskip("tensorflow_datasets")


@dataclasses.dataclass
class Audio:
    sample_rate: int | None = 16_000


LENGTHS = (400, 160, 330, 1000)


def _records(dtype=np.int16, scale=1):
    return [
        {
            "speech": (scale * np.arange(length)).astype(dtype), "text": "a",
            "speaker_id": (84, 7, 84, 100)[i], "label": i % 2,
        }
        for i, length in enumerate(LENGTHS)
    ]  # fmt: skip


def _dataset(records, features=None, rate=16_000, **options):
    audio = Audio(rate)
    features = features or {"speech": audio, "speaker_id": np.int64}
    builder = types.SimpleNamespace(
        info=types.SimpleNamespace(features=features, splits={"train": 1}),
        as_data_source=lambda split: records,
    )
    fake = types.SimpleNamespace(
        features=types.SimpleNamespace(Audio=Audio, ClassLabel=tfds.features.ClassLabel)
    )
    keys = dict(audio_key=None, label_key=None, speaker_key=None, strict=False)
    read = AudioOptions(window=320, windows="consecutive", **options.pop("read", {}))
    return TfdsAudio(fake, "mine", builder, read, **{**keys, **options})


def test_windows_and_speakers():
    source = _dataset(_records()).source("train")
    assert len(source) == 2 + 1 + 2 + 4 and source.class_names == ("7", "84", "100")
    batch = source.batch(np.arange(len(source)))
    assert batch["label"].tolist() == [1, 1, 0, 1, 1, 2, 2, 2, 2]
    np.testing.assert_array_equal(batch["audio"][1, :80], np.arange(320, 400))
    assert not batch["audio"][1, 80:].any()
    assert batch["speaker"].tolist()[:3] == [[1, 1], [1, -1], [0, -1]]
    assert source.example_name(2) == "record 1 of tfds:mine[train]"


def test_classes_rates_and_channels():
    features = {
        "speech": Audio(8_000), "label": tfds.features.ClassLabel(names=["no", "yes"]),
    }  # fmt: skip
    source = _dataset(_records(), features).source("train")
    assert source.class_names == ("no", "yes") and source.targets == ()
    assert len(source) == 3 + 1 + 3 + 7  # twice the samples
    batch = source.batch(np.arange(len(source)))
    assert batch["label"].tolist() == [0] * 3 + [1] + [0] * 3 + [1] * 7
    np.testing.assert_allclose(batch["audio"][1], np.arange(320, 640) / 2, atol=3)
    stereo = [{"speech": np.stack([np.full(320, 0.5), np.zeros(320)], axis=1)}]
    source = _dataset(stereo, {"speech": Audio(None)}).source("train")
    assert source.labels is None and (source.batch([0])["audio"] == 8192).all()


def test_what_cannot_be_read():
    with pytest.raises(UserError, match="mine has no audio feature; features: text"):
        _dataset([], {"text": 1})
    with pytest.raises(UserError, match="speaker_key 'who' is not one of speech, speaker_id"):
        _dataset(_records(), speaker_key="who")
    with pytest.raises(UserError, match=r"tfds:mine\[train\] cannot be read: KeyError"):
        _dataset(_records(), {"sound": Audio()}).source("train")
    wide = _dataset(_records(np.int64, 10**6), strict=True).source("train")
    with pytest.raises(UserError, match="unreadable recording record 0 .*beyond 16 bits"):
        wide.batch([0])


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="has TensorFlow")
def test_without_tensorflow_it_says_so():
    expected = pytest.raises(
        UserError, match="No module named .tensorflow.*need: pip install tensorflow"
    )
    with tfds.testing.mock_data(num_examples=2), expected as e:
        data.load("tfds:librispeech", "train_clean100", window=1600)
    assert "\n" not in str(e.value)


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow")
def test_mocked_librispeech():
    with tfds.testing.mock_data(num_examples=5):
        source = data.load("tfds:librispeech", "train_clean100", window=1600)
        batch = source.batch(np.arange(5))
    assert batch["audio"].shape == (5, 1600) and batch["audio"].any()
    assert batch["speaker"].shape == (5, 10) and source.num_classes >= 1
