"""MFCC against a plain loop, and what they must not be."""

import numpy as np
from scipy.fft import dct

from ssl_jax.evals import mfcc


def loop(x, rate, frame):
    """The coefficients of one waveform, frame by frame in float64."""
    width, t = frame * 5 // 2, len(x) // frame
    before = (width - frame) // 2
    padded = np.r_[np.zeros(before), x, np.zeros(width)]
    size = 2 ** int(np.ceil(np.log2(width)))
    n = np.arange(width)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / width)
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = [700 * (10 ** (m / 2595) - 1) for m in np.linspace(0, top, 28)]
    out = []
    for i in range(t):
        spectrum = np.fft.rfft(padded[i * frame : i * frame + width] * window, size)
        power = np.abs(spectrum) ** 2 / size
        energies = []
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            total = 0.0
            for bin_, value in enumerate(power):
                f = bin_ * rate / size
                if low < f <= middle:
                    total += value * (f - low) / (middle - low)
                elif middle < f < high:
                    total += value * (high - f) / (high - middle)
            energies.append(max(total, 1e-10))
        out.append(dct(np.log(energies), norm="ortho")[:13])

    def slopes(c):
        rows = []
        for i in range(len(c)):
            at = [c[min(max(i + d, 0), len(c) - 1)] for d in (-2, -1, 1, 2)]
            rows.append((2 * (at[3] - at[0]) + at[2] - at[1]) / 10)
        return np.array(rows)

    c = np.array(out)
    return np.concatenate([c, slopes(c), slopes(slopes(c))], axis=1)


def test_coefficients_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(0, 0.1, 1_600), 0.3 * np.sin(np.arange(1_600) * 0.3)])
    got = mfcc.mfcc(x.astype(np.float32), rate=16_000, frame=160)
    assert got.shape == (2, 10, 39) and got.dtype == np.float32
    for row in range(2):
        np.testing.assert_allclose(got[row], loop(x[row], 16_000, 160), rtol=1e-3, atol=5e-3)


def test_silence_is_finite_and_loudness_moves_only_the_first():
    zeros = np.zeros((1, 1_600), np.float32)
    assert np.isfinite(mfcc.mfcc(zeros, rate=16_000, frame=160)).all()
    x = np.random.default_rng(0).normal(0, 0.1, (1, 1_600)).astype(np.float32)
    one, two = (np.asarray(mfcc.mfcc(a * x, rate=16_000, frame=160)) for a in (1, 2))
    change = np.abs(two - one).max(axis=(0, 1))
    assert change[0] > 1 and change[1:].max() < 1e-3
