"""Synthetic speech: what is promised of it."""

import numpy as np
from ml_collections import ConfigDict

from ssl_jax import config as config_lib
from ssl_jax import data
from ssl_jax.data.audio import synthetic


def test_utterances_are_functions_of_seed_split_and_number():
    one = data.load("speech", num_generated=6, windows="consecutive")
    more = data.load("speech", num_generated=20, windows="consecutive")
    np.testing.assert_array_equal(one.batch(np.arange(12))["audio"],
                                  more.batch(np.arange(12))["audio"])  # fmt: skip
    other = data.load("speech", num_generated=6, windows="consecutive", seed=1)
    assert np.any(other.batch(np.arange(2))["audio"] != one.batch(np.arange(2))["audio"])
    test = data.load("speech", "test", num_generated=6, windows="consecutive")
    assert len(test) == 2 and np.any(test.batch([0])["audio"] != one.batch([0])["audio"])


def test_labels_are_speakers_and_phones():
    source = data.load("speech", num_generated=8, num_speakers=4, windows="consecutive")
    batch = source.batch(np.arange(len(source)))
    np.testing.assert_array_equal(batch["label"], np.repeat([0, 1, 2, 3, 0, 1, 2, 3], 2))
    np.testing.assert_array_equal(batch["speaker"], np.repeat(batch["label"][:, None], 128, 1))
    assert set(np.unique(batch["phone"])) == set(range(len(synthetic.PHONES)))
    # Pauses are quieter than vowels.
    loudness = np.abs(batch["audio"].reshape(-1, 160).astype(float)).mean(axis=1)
    phone = batch["phone"].ravel()
    vowel = (phone > 0) & (phone <= len(synthetic.VOWELS))
    assert np.median(loudness[phone == 0]) < 0.2 * np.median(loudness[vowel])


def test_the_filter_has_the_formants_and_the_source_the_pitch():
    """A steady vowel: peaks of the spectrum are at multiples of the pitch near the formants."""
    voice = synthetic.Speaker(pitch=100.0, formant_scale=1.0, breathiness=0.0)
    frames = 50
    formants = np.tile([730.0, 1090.0, 2440.0, 3500.0], (frames, 1))
    pulses = synthetic._pulses(np.random.default_rng(0), voice, frames)
    response = synthetic._formant_filter(np.eye(1, frames * 160)[0], formants)
    frequency = np.fft.rfftfreq(len(response), 1 / synthetic.RATE)
    gain = np.abs(np.fft.rfft(response))
    for formant in formants[0, :3]:
        near = np.abs(frequency - formant) < 150
        assert abs(frequency[near][gain[near].argmax()] - formant) < 30
    assert abs(gain[0] - 1) < 1e-6
    # Zero crossings of the falling phase count the periods: half a second of about 100 Hz.
    onsets = np.flatnonzero((pulses[1:] > 0) & (pulses[:-1] == 0))
    assert 45 <= len(onsets) <= 55


def test_voices_differ():
    voices = [synthetic.speaker(number) for number in range(50)]
    assert len(set(voices)) == 50
    values = np.array([[v.pitch, v.formant_scale, v.breathiness] for v in voices])
    assert (values.min(0) > [84, 0.84, 0.029]).all() and (values.max(0) < [251, 1.21, 0.51]).all()
    assert np.abs(np.corrcoef(np.log(values.T)) - np.eye(3)).max() < 0.25


def test_sizes_are_known_without_synthesis():
    for split in ("train", "train[:50%]", "train[3:7]", "test"):
        section = config_lib.base_config().data
        section.update(name="speech", split=split)
        section.options = ConfigDict(dict(num_generated=10, window=10_240))
        spec = data.spec_from_config(section)
        assert spec == data.from_config(section).spec
