"""Makes audio files for tests."""

import numpy as np
import soundfile


def tone(seconds, rate=16_000, pitch=440.0, loudness=0.3):
    """A sine, float64 [s] in [-1, 1]."""
    return loudness * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)


def write(path, samples, rate=16_000, **options):
    """Writes samples [s] or [s channels] to a file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return path
