"""Mel-frequency cepstral coefficients of frames of audio, a baseline (Davis & Mermelstein 1980).

A frame is a Hann window of 2.5 times its length (25 ms for 10 ms), centred on it. Its power
spectrum goes through triangular filters, evenly spaced on the mel scale 2595 log10(1 + f / 700),
from 0 Hz to half the sample rate. The 13 lowest terms of the orthonormal cosine transform (DCT-II)
of the log energies are the coefficients. Their slopes over 5 frames, and the slopes of these, are
appended.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

NUM_FILTERS = 26
NUM_COEFFICIENTS = 13
_DELTA = 2  # frames to each side
_FLOOR = 1e-10  # of filter energies, whose log is taken; digital silence is 0


@functools.partial(jax.jit, static_argnames=("rate", "frame"))
def mfcc(x: jax.Array, *, rate: int, frame: int) -> jax.Array:
    """Coefficients of each frame.

    Args:
      x: [n s], samples in [-1, 1].
      rate: samples per second.
      frame: samples of a frame; s is a multiple of it.

    Returns:
      float32 [n s/frame 39]: 13 coefficients, their slopes, and the slopes of the slopes. Samples
      before the first and after the last are 0.
    """
    width = window_length(frame)
    before = (width - frame) // 2
    padded = jnp.pad(x, ((0, 0), (before, width - frame - before)))
    starts = np.arange(x.shape[1] // frame) * frame
    window = np.hanning(width + 1)[:-1].astype(np.float32)
    frames = padded[:, starts[:, None] + np.arange(width)] * window  # (n, t, width)
    size = fft_size(width)
    power = jnp.abs(jnp.fft.rfft(frames, size)) ** 2 / size
    filters = jnp.asarray(mel_filters(size, rate), jnp.float32)
    precision = jax.lax.Precision.HIGHEST
    energy = jnp.einsum("ntf,fm->ntm", power, filters, precision=precision)
    log_energy = jnp.log(jnp.maximum(energy, _FLOOR))
    cosines = jnp.asarray(cosine_transform(), jnp.float32)
    coefficients = jnp.einsum("ntm,mc->ntc", log_energy, cosines, precision=precision)
    slopes = _slopes(coefficients)
    return jnp.concatenate([coefficients, slopes, _slopes(slopes)], axis=-1)


def window_length(frame: int) -> int:
    """Samples of the window of a frame."""
    return frame * 5 // 2


def fft_size(width: int) -> int:
    """The power of two from which a window is transformed."""
    return 1 << max(1, (width - 1).bit_length())


def mel_filters(size: int, rate: int) -> np.ndarray:
    """Triangular filters float64 [size/2+1 NUM_FILTERS], with peaks of 1."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, NUM_FILTERS + 2) / 2595) - 1)
    frequency = np.arange(size // 2 + 1)[:, None] * rate / size
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (frequency - low) / (middle - low), (high - frequency) / (high - middle)
    return np.maximum(0, np.minimum(rising, falling))


def cosine_transform() -> np.ndarray:
    """The first terms of the orthonormal DCT-II, float64 [NUM_FILTERS NUM_COEFFICIENTS]."""
    n, k = np.arange(NUM_FILTERS)[:, None], np.arange(NUM_COEFFICIENTS)
    matrix = np.sqrt(2 / NUM_FILTERS) * np.cos(np.pi * k * (2 * n + 1) / (2 * NUM_FILTERS))
    matrix[:, 0] /= np.sqrt(2)
    return matrix


def _slopes(x: jax.Array) -> jax.Array:
    """Least-squares slopes over 2 _DELTA + 1 frames [n t c]; the ends are repeated."""
    t = x.shape[1]
    padded = jnp.pad(x, ((0, 0), (_DELTA, _DELTA), (0, 0)), mode="edge")
    offsets = range(1, _DELTA + 1)
    total = sum(
        d * (padded[:, _DELTA + d : _DELTA + d + t] - padded[:, _DELTA - d : _DELTA - d + t])
        for d in offsets
    )
    return total / (2 * sum(d * d for d in offsets))
