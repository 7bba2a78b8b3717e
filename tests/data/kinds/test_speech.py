"""Synthetic speech: what is promised of it."""

import itertools

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
    voice = synthetic.Speaker(100.0, 1.0, breathiness=0.0, response=np.ones(1), noise=0.0)
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


def test_each_speaker_has_a_room_and_a_microphone():
    one, other = synthetic.speaker(0), synthetic.speaker(1)
    assert one is synthetic.speaker(0)
    spectra = [np.abs(np.fft.rfft(voice.response, 4096)) for voice in (one, other)]
    decibels = 20 * np.log10(spectra[0] / spectra[1])
    assert decibels.std() > 2  # colours differ
    # Echoes: much energy comes after the microphone's own response, and it decays.
    energy = np.square(one.response)
    assert 0.1 < energy[66:].sum() / energy.sum() < 0.6
    assert energy[66:300].sum() > 5 * energy[-234:].sum()
    for voice in (one, other):
        assert 1e-3 <= voice.noise <= 1e-2


def test_what_is_said_are_words_of_the_lexicon():
    lexicon = synthetic.words()
    assert len(set(lexicon)) == synthetic.NUM_WORDS
    assert {phone for word in lexicon for phone in word} == set(range(1, len(synthetic.PHONES)))
    phones, formants = synthetic._draw_phones(np.random.default_rng(0), 2000)
    assert phones.shape == (2000,) and formants.shape == (2000, 3)
    said = [int(p) for i, p in enumerate(phones) if not i or p != phones[i - 1]]
    pauses = [i for i, phone in enumerate(said) if phone == 0]
    assert len(pauses) > 10
    for start, stop in itertools.pairwise(pauses):  # between pauses: words and nothing else
        assert _is_made_of(tuple(said[start + 1 : stop]), lexicon)


def _is_made_of(phones, lexicon):
    """Whether the phones are words one after the other; equal phones that meet are merged."""
    if not phones:
        return True
    for word in lexicon:
        if phones[: len(word)] == word:
            rest = phones[len(word) :]
            if _is_made_of(rest, lexicon):
                return True
            if len(word) > 1 and _is_made_of(word[-1:] + rest, lexicon):
                return True
    return False


def test_sizes_are_known_without_synthesis():
    for split in ("train", "train[:50%]", "train[3:7]", "test"):
        section = config_lib.base_config().data
        section.update(name="speech", split=split)
        section.options = ConfigDict(dict(num_generated=10, window=10_240))
        spec = data.spec_from_config(section)
        assert spec == data.from_config(section).spec
