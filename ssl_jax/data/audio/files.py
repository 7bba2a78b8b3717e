"""Reads stretches of audio files: mixes channels, changes the rate, converts to 16 bits.

Files are decoded by libsndfile (`soundfile`): WAV, FLAC, Ogg and others, of 8 to 32 bits or floats.
The rate is changed by a polyphase filter (`scipy.signal.resample_poly`). A stretch is decoded with
the margins that the filter needs, so its samples do not depend on where it begins.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.audio import wav

# Names of audio files end so.
EXTENSIONS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".au", ".mp3")
_FILTER_HALF_LENGTH = 10  # of resample_poly's default filter, in samples of the lower rate
_MAX_FACTOR = 4_096  # of the rates' ratio in lowest terms; the filter is 20 times as long
_FULL_SCALE = 32_768

Encoded = str | bytes | io.RawIOBase  # a path, the content, or an open file to seek in


@dataclasses.dataclass(frozen=True)
class Header:
    """Facts of an audio file.

    Attributes:
      frames: number of samples per channel, as the header says.
      rate: samples per second.
      channels: number of channels.
    """

    frames: int
    rate: int
    channels: int

    def length_at(self, rate: int) -> int:
        """Number of samples after a change to `rate`."""
        up, down = factors(self.rate, rate)
        return -(-self.frames * up // down)


@functools.lru_cache(maxsize=256)
def factors(rate: int, new_rate: int) -> tuple[int, int]:
    """(up, down), the ratio of two rates in lowest terms.

    Raises:
      ValueError: the ratio's terms are too large for a filter.
    """
    if rate <= 0:
        raise ValueError(f"the sample rate is {rate}")
    divisor = math.gcd(rate, new_rate)
    up, down = new_rate // divisor, rate // divisor
    if max(up, down) > _MAX_FACTOR:
        raise ValueError(
            f"its rate of {rate} Hz has no simple ratio to {new_rate} Hz; convert the file, or set "
            "data.options.sample_rate"
        )
    return up, down


def require_soundfile() -> Any:
    """The module `soundfile`.

    Raises:
      UserError: it is not installed.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: there is no libsndfile
        raise UserError(
            f"audio files are read by soundfile, which cannot be imported ({error}); pip install "
            "'ssl_jax[audio]'"
        ) from error
    return soundfile


@functools.cache
def _reader() -> tuple[type, type[Exception]]:
    """A SoundFile that reads one stretch, and the error of libsndfile."""
    soundfile = require_soundfile()

    class OneStretch(soundfile.SoundFile):
        """After a read, SoundFile seeks to where it is, which decodes a frame of FLAC once more."""

        def seekable(self) -> bool:
            return False  # what `read` asks; `seek` works

    return OneStretch, soundfile.LibsndfileError


@contextlib.contextmanager
def _opened(encoded: Encoded) -> Iterator[Any]:
    reader, error_class = _reader()
    if isinstance(encoded, bytes):
        if not encoded:
            raise ValueError("the file is empty")
        encoded = io.BytesIO(encoded)
    try:
        with reader(encoded) as file:
            yield file
    except error_class as error:
        raise ValueError(str(error.error_string).strip()) from None


def header(encoded: Encoded) -> Header:
    """The header of an audio file.

    Args:
      encoded: its path, its bytes, or an open file.

    Raises:
      ValueError: it is no audio file, or it has no samples.
    """
    with _opened(encoded) as file:
        found = Header(file.frames, file.samplerate, file.channels)
    if found.frames <= 0:
        raise ValueError("the file has no samples")
    return found


def read(encoded: Encoded, start: int, stop: int, rate: int) -> np.ndarray:
    """The samples `start` to `stop` of an audio file, one channel at `rate`.

    Args:
      encoded: its path, its bytes, or an open file.
      start, stop: in samples at `rate`, from 0. Fewer are returned if the file ends before `stop`.
      rate: samples per second of the result.

    Returns:
      int16 [s], s <= stop - start. Channels are averaged. Floats beyond [-1, 1] are clipped.

    Raises:
      ValueError: it is no audio file, it is broken, or it has values that are not finite.
    """
    if isinstance(encoded, str) and encoded.endswith(".wav"):
        plain = wav.read(encoded, start, stop, rate)
        if plain is not None:
            return plain
    with _opened(encoded) as file:
        return _stretch(functools.partial(_decode, file), file.samplerate, start, stop, rate)


def read_array(samples: np.ndarray, own_rate: int, start: int, stop: int, rate: int) -> np.ndarray:
    """As `read`, of samples in memory.

    Args:
      samples: [s] or [s channels]; integers of at most 16 bits, or floats in [-1, 1].
      own_rate: samples per second of `samples`.
      start, stop, rate: as of `read`.

    Raises:
      ValueError: there are integers of more than 16 bits, or values that are not finite.
    """
    samples = np.asarray(samples)
    whole = np.issubdtype(samples.dtype, np.integer)
    if whole and samples.size and np.abs(samples.astype(np.int64)).max() > _FULL_SCALE:
        raise ValueError(f"it has samples beyond 16 bits, such as {samples.max()}")

    def decode(start: int, stop: int) -> np.ndarray:
        part = samples[max(0, start) : max(0, stop)]
        if part.ndim == 1 and whole:
            return np.clip(part, -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
        part = part.astype(np.float32) / (_FULL_SCALE if whole else 1)
        return _finite(part.mean(axis=1) if part.ndim == 2 else part)

    return _stretch(decode, own_rate, start, stop, rate)


def _stretch(
    decode: Callable[[int, int], np.ndarray], own_rate: int, start: int, stop: int, rate: int
) -> np.ndarray:
    """`read`, by a function that gives samples at their own rate, int16 or float32."""
    up, down = factors(own_rate, rate)
    if up == down:
        samples = decode(start, stop)
        return samples if samples.dtype == np.int16 else _to_int16(samples)
    # The stretch begins at a sample that exists at both rates.
    margin = _FILTER_HALF_LENGTH * max(1, -(-down // up)) + 1
    first = max(0, (start * down // up - margin) // down * down)
    last = -(-stop * down // up) + margin
    samples = decode(first, last)
    if samples.dtype == np.int16:
        samples = samples.astype(np.float32) / _FULL_SCALE
    resampled = _resample(samples, up, down)
    offset = start - first * up // down
    return _to_int16(resampled[offset : offset + stop - start])


def _decode(file: Any, start: int, stop: int) -> np.ndarray:
    """Samples of an open file at its own rate: int16 [s] if they are stored so, else float32."""
    frames = file.frames
    start = min(start, frames)
    file.seek(start)
    stored = file.channels == 1 and file.subtype == "PCM_16"
    count = max(0, min(stop, frames) - start)
    samples = file.read(count, dtype="int16" if stored else "float32")
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    return samples if stored else _finite(samples)


def _finite(samples: np.ndarray) -> np.ndarray:
    """Raises ValueError if there are values that are not finite."""
    if not np.isfinite(samples).all():
        raise ValueError("it has samples that are not finite numbers")
    return samples


def _resample(samples: np.ndarray, up: int, down: int) -> np.ndarray:
    from scipy.signal import resample_poly  # takes a while to import

    if not len(samples):
        return samples
    return resample_poly(samples, up, down, window=_filter(up, down))


@functools.lru_cache(maxsize=32)
def _filter(up: int, down: int) -> np.ndarray:
    """The low-pass filter of `resample_poly`, float32, which it would design at every call."""
    from scipy.signal import firwin

    largest = max(up, down)
    taps = firwin(2 * _FILTER_HALF_LENGTH * largest + 1, 1 / largest, window=("kaiser", 5.0))
    return taps.astype(np.float32)


def _to_int16(samples: np.ndarray) -> np.ndarray:
    scaled = np.rint(samples * np.float32(_FULL_SCALE))
    return np.clip(scaled, -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
