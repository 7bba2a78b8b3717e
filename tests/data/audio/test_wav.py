"""Plain WAV files read without a decoder, beside libsndfile."""

import struct

import numpy as np
import pytest
import soundfile

from ssl_jax.data.audio import files, wav
from tests.data.audio.recorded import write

RATE = 16_000


def chunk(name, content, size=None):
    return name + struct.pack("<I", len(content) if size is None else size) + content


def form(channels=1, rate=RATE, width=2, tag=1):
    block = channels * width
    return chunk(
        b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * block, block, 8 * width)
    )


def whole(*chunks):
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


SAMPLES = np.random.default_rng(0).integers(-(2**15), 2**15, 1_000).astype("<i2")
DATA = chunk(b"data", SAMPLES.tobytes())
PLAIN = {
    "written as most programs do": whole(form(), DATA),
    "a chunk before the samples": whole(form(), chunk(b"LIST", b"INFOabcd"), DATA),
    "a chunk of odd length": whole(form(), chunk(b"note", b"abc") + b"\0", DATA),
}
OTHER = {
    "chunks after the samples": whole(form(), DATA, chunk(b"LIST", b"INFOabcd")),
    "two channels": whole(form(channels=2), DATA),
    "another rate": whole(form(rate=8_000), DATA),
    "8 bits": whole(form(width=1), DATA),
    "mu-law": whole(form(width=1, tag=7), DATA),
    "cut short": whole(form(), DATA)[:-100],
    "no length": whole(form(), chunk(b"data", SAMPLES.tobytes(), 0)),
    "a length beyond the end": whole(form(), chunk(b"data", SAMPLES.tobytes(), 2**32 - 1)),
    "big-endian": whole(form(), DATA).replace(b"RIFF", b"RIFX"),
    "samples far behind": whole(form(), chunk(b"LIST", bytes(1_000)), DATA),
    "empty": b"",
    "no chunks": whole(),
    "no audio": b"no audio at all, but more than a few bytes of text in a file",
}


@pytest.mark.parametrize("what", PLAIN)
def test_plain_files_have_the_samples_of_libsndfile(tmp_path, what):
    path = tmp_path / "a.wav"
    path.write_bytes(PLAIN[what])
    expected = soundfile.read(path, dtype="int16")[0]
    np.testing.assert_array_equal(expected, SAMPLES)
    for start, stop in (
        (0, 1_000),
        (0, 1),
        (13, 700),
        (990, 2_000),
        (1_000, 1_010),
        (5_000, 5_001),
    ):
        found = wav.read(str(path), start, stop, RATE)
        assert found.dtype == np.int16
        np.testing.assert_array_equal(found, expected[start:stop])
        np.testing.assert_array_equal(files.read(str(path), start, stop, RATE), found)


def test_a_file_that_soundfile_writes_is_plain(tmp_path):
    path = write(tmp_path / "a.wav", SAMPLES)
    np.testing.assert_array_equal(wav.read(str(path), 5, 900, RATE), SAMPLES[5:900])
    # What libsndfile would change the rate of, or decode, is left to it.
    assert wav.read(str(path), 0, 10, 8_000) is None
    for subtype in ("PCM_24", "FLOAT", "ULAW"):
        path = write(tmp_path / f"{subtype}.wav", SAMPLES, subtype=subtype)
        assert wav.read(str(path), 0, 10, RATE) is None
    path = write(tmp_path / "x.wav", SAMPLES, format="WAVEX")
    assert wav.read(str(path), 0, 10, RATE) is None
    np.testing.assert_array_equal(files.read(str(path), 0, 1_000, RATE), SAMPLES)


@pytest.mark.parametrize("what", OTHER)
def test_other_files_are_left_to_libsndfile(tmp_path, what):
    path = tmp_path / "a.wav"
    path.write_bytes(OTHER[what])
    assert wav.read(str(path), 0, 100, RATE) is None


def test_files_that_are_missing_or_shrink_say_so(tmp_path):
    with pytest.raises(OSError, match="gone.wav"):
        files.read(str(tmp_path / "gone.wav"), 0, 10, RATE)
