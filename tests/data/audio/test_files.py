"""Decoding of audio files: rates, channels, widths, stretches, broken files."""

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from ssl_jax.data.audio import files
from tests.data.audio.recorded import tone, write


def as_float(samples):
    assert samples.dtype == np.int16
    return samples / 32_768


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_formats_have_the_samples_that_were_written(tmp_path, name):
    x = tone(0.5)
    path = write(tmp_path / name, x)
    assert files.header(str(path)) == files.Header(8_000, 16_000, 1)
    read = as_float(files.read(str(path), 0, 8_000, 16_000))
    np.testing.assert_allclose(read, x, atol=0.02 if name.endswith("ogg") else 1e-4)
    # The same from memory, and any stretch of it.
    part = files.read(path.read_bytes(), 1_001, 3_000, 16_000)
    np.testing.assert_array_equal(part, files.read(str(path), 0, 8_000, 16_000)[1_001:3_000])


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_widths_become_16_bits(tmp_path, subtype):
    x = tone(0.2)
    path = write(tmp_path / "a.wav", x, subtype=subtype)
    tolerance = {"PCM_U8": 0.01, "ULAW": 0.02}.get(subtype, 1e-4)
    np.testing.assert_allclose(as_float(files.read(str(path), 0, 3_200, 16_000)), x, atol=tolerance)


def test_channels_are_averaged_and_floats_clipped(tmp_path):
    left, right = tone(0.1), tone(0.1, pitch=1_000.0)
    path = write(tmp_path / "a.wav", np.stack([left, right], axis=1))
    np.testing.assert_allclose(
        as_float(files.read(str(path), 0, 1_600, 16_000)), (left + right) / 2, atol=1e-4
    )
    loud = write(tmp_path / "loud.wav", np.full(100, 1.5), subtype="FLOAT")
    assert set(files.read(str(loud), 0, 100, 16_000)) == {32_767}


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000])
def test_the_rate_is_changed_and_stretches_do_not_depend_on_where_they_begin(tmp_path, rate):
    x = tone(1.0, rate)
    path = write(tmp_path / "a.wav", x, rate, subtype="FLOAT")
    length = files.header(str(path)).length_at(16_000)
    assert length == 16_000
    whole = files.read(str(path), 0, length, 16_000)
    up, down = files.factors(rate, 16_000)
    stored = soundfile.read(path, dtype="float32")[0]
    np.testing.assert_allclose(as_float(whole), resample_poly(stored, up, down), atol=1e-4)
    # A pure tone stays one, away from the ends.
    np.testing.assert_allclose(as_float(whole)[500:-500], tone(1.0)[500:-500], atol=2e-3)
    for start, stop in ((0, 700), (1, 801), (5_003, 6_003), (15_500, 16_000)):
        part = files.read(str(path), start, stop, 16_000)
        assert len(part) == stop - start
        assert np.abs(part.astype(int) - whole[start:stop]).max() <= 1, (start, stop)


def test_a_stretch_beyond_the_end_is_shorter(tmp_path):
    path = write(tmp_path / "a.wav", tone(0.1))
    assert len(files.read(str(path), 1_500, 3_000, 16_000)) == 100
    assert len(files.read(str(path), 5_000, 6_000, 16_000)) == 0
    assert len(files.read(str(path), 5_000, 6_000, 8_000)) == 0


def test_a_long_file_is_read_in_parts(tmp_path):
    """Ten minutes; a window at its end needs neither the time nor the memory of the whole file."""
    path = write(tmp_path / "long.flac", np.zeros(600 * 16_000, np.int16))
    assert files.header(str(path)).frames == 600 * 16_000
    assert len(files.read(str(path), 599 * 16_000, 600 * 16_000, 16_000)) == 16_000


def test_files_that_cannot_be_read_say_why(tmp_path):
    empty = tmp_path / "empty.wav"
    empty.touch()
    text = tmp_path / "text.wav"
    text.write_text("no audio at all")
    silent = write(tmp_path / "none.wav", np.zeros(0))
    for path, reason in ((empty, "Format not recognised"), (text, "Format not recognised"),
                         (silent, "has no samples")):  # fmt: skip
        with pytest.raises(ValueError, match=reason):
            files.header(str(path))
    with pytest.raises(ValueError, match="the file is empty"):
        files.header(b"")
    bad = write(tmp_path / "nan.wav", np.array([0.1, np.nan]), subtype="FLOAT")
    with pytest.raises(ValueError, match="not finite"):
        files.read(str(bad), 0, 2, 16_000)
    odd = write(tmp_path / "odd.wav", tone(0.1, 15_991), 15_991)
    with pytest.raises(ValueError, match="15991 Hz has no simple ratio to 16000"):
        files.header(str(odd)).length_at(16_000)


@pytest.mark.parametrize("name", ["a.wav", "b.wav", "a.flac", "a.ogg"])
def test_every_stretch_has_the_samples_that_soundfile_reads(tmp_path, name):
    """`a.wav` is read without libsndfile; from others one stretch is read without a second seek."""
    noise = np.random.default_rng(0).normal(0, 0.1, 30_000)
    path = write(tmp_path / name, noise, subtype="PCM_24" if name == "b.wav" else None)
    for start, stop in ((0, 30_000), (1, 5_000), (4_096, 8_192), (29_000, 31_000), (9_999, 9_999)):
        stored = name in ("a.wav", "a.flac")
        with soundfile.SoundFile(path) as file:
            file.seek(start)
            expected = file.read(stop - start, dtype="int16" if stored else "float32")
        if not stored:
            expected = np.clip(np.rint(expected * 32_768), -32_768, 32_767).astype(np.int16)
        np.testing.assert_array_equal(files.read(str(path), start, stop, 16_000), expected)
