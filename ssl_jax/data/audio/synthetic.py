"""Synthetic speech: a source and a filter, in the manner of formant synthesizers (Klatt 1980).

The source is a train of glottal pulses U' = 2x - 3x^2 (Klatt and Klatt 1990) at the speaker's
pitch, with noise while the glottis is open; the filter is a cascade of four resonators at the
formants of the phone, times the speaker's formant scale. Fricatives are noise through a resonator
of their own. Vowels have the formants that Peterson and Barney (1952) measured of men.

It sounds like a machine that babbles, and it is no substitute for speech: it has twelve phones, no
words, no room and no microphone.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from ssl_jax.data import counter

RATE = 16_000  # the rate of synthesis; formants and fricatives need it
FRAME = 160  # samples for which the filter is constant
_PEAK = 0.5  # of the waveforms, before the gain of an utterance
_NOISE = 1e-3  # of the recording, relative to full scale
_OPEN_QUOTIENT = 0.6  # share of a pitch period in which the glottis is open
_FOURTH_FORMANT = 3_500.0  # Hz
_BANDWIDTHS = (70.0, 90.0, 130.0, 200.0)  # Hz, of the four formants

# Phone -> the first three formants in Hz.
VOWELS = {
    "iy": (270, 2290, 3010),
    "ih": (390, 1990, 2550),
    "eh": (530, 1840, 2480),
    "ae": (660, 1720, 2410),
    "aa": (730, 1090, 2440),
    "ao": (570, 840, 2410),
    "uw": (300, 870, 2240),
    "er": (490, 1350, 1690),
}
NASALS = {"m": (250, 1000, 2200)}
# Phone -> centre and width of its noise in Hz.
FRICATIVES = {"s": (6000.0, 1800.0), "sh": (2800.0, 1000.0)}
SILENCE = "sil"
PHONES = (SILENCE, *VOWELS, *NASALS, *FRICATIVES)

_FORMANTS = np.array(
    [VOWELS.get(p) or NASALS.get(p) or (500, 1500, 2500) for p in PHONES], np.float64
)
# Amplitudes of voice and of frication, by phone.
_VOICE = np.array([1.0 if p in VOWELS else 0.5 if p in NASALS else 0.0 for p in PHONES])
_FRICATION = np.array([1.0 if p in FRICATIVES else 0.0 for p in PHONES])
# Shortest and longest duration by phone, frames of 10 ms.
_DURATIONS = np.array(
    [(6, 14) if p == SILENCE else (8, 18) if p in VOWELS else (6, 11) for p in PHONES]
)


@dataclasses.dataclass(frozen=True)
class Speaker:
    """A voice.

    Attributes:
      pitch: mean fundamental frequency, Hz.
      formant_scale: factor of all formants: the inverse of the length of the vocal tract.
      breathiness: amplitude of noise relative to the pulses.
    """

    pitch: float
    formant_scale: float
    breathiness: float


def speaker(number: int) -> Speaker:
    """The voice of speaker `number`: points of an additive recurrence, which are evenly spread."""
    # Powers of the inverse of the real root of x^4 = x + 1, for three dimensions.
    root = 1.2207440846057596
    u, v, w = ((0.5 + (number + 1) / root**k) % 1.0 for k in (1, 2, 3))
    return Speaker(
        pitch=85.0 * (250.0 / 85.0) ** u,
        formant_scale=0.85 + 0.35 * v,
        breathiness=0.03 * (0.5 / 0.03) ** w,
    )


def utterance(seed: int, split: int, number: int, voice: Speaker, frames: int) -> tuple:
    """A random utterance.

    Args:
      seed, split, number: name the utterance; equal ones give equal samples.
      voice: who speaks.
      frames: its length in frames of 10 ms.

    Returns:
      (samples int16 [160 frames], phones uint8 [frames]).
    """
    rng = np.random.default_rng(counter.key(seed, counter.Stream.SPEECH, split, number))
    phones = _draw_phones(rng, frames)
    smooth = functools.partial(_smoothed, width=5)
    formants = np.exp(smooth(np.log(_FORMANTS[phones]))) * voice.formant_scale
    fourth = np.full((frames, 1), _FOURTH_FORMANT * voice.formant_scale)
    formants = np.concatenate([formants, fourth], axis=1)  # [frames 4]
    voiced = _repeated(smooth(_VOICE[phones])) * _pulses(rng, voice, frames)
    wave = _formant_filter(voiced, formants)
    wave *= _PEAK / max(np.abs(wave).max(), 1e-9)
    for phone, (centre, width) in FRICATIVES.items():
        loudness = smooth((phones == PHONES.index(phone)).astype(np.float64))
        if loudness.any():
            noise = _resonated(rng.standard_normal(len(wave)), centre, width)
            wave += 0.3 * _PEAK / 3 * _repeated(loudness) * noise / noise.std()
    gain = 10 ** rng.uniform(-0.5, 0.0)  # microphones differ by up to 10 dB
    wave = gain * wave + _NOISE * rng.standard_normal(len(wave))
    return np.clip(np.rint(wave * 32_768), -32_768, 32_767).astype(np.int16), phones


def _draw_phones(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Phones of frames, uint8: syllables of perhaps a consonant and a vowel, and pauses."""
    vowels = [PHONES.index(p) for p in VOWELS]
    consonants = [PHONES.index(p) for p in (*NASALS, *FRICATIVES)]
    out: list[np.ndarray] = []
    total, phone = 0, PHONES.index(SILENCE)
    while total < frames:
        low, high = _DURATIONS[phone]
        duration = int(rng.integers(low, high + 1))
        out.append(np.full(duration, phone, np.uint8))
        total += duration
        if phone in consonants or rng.random() < 0.25:
            phone = int(rng.choice([v for v in vowels if v != phone]))
        elif phone in vowels and rng.random() < 0.2:
            phone = PHONES.index(SILENCE)
        else:
            phone = int(rng.choice(consonants))
    return np.concatenate(out)[:frames]


def _pulses(rng: np.random.Generator, voice: Speaker, frames: int) -> np.ndarray:
    """Glottal pulses with noise, float64 [160 frames]; the pitch falls and wavers."""
    walk = _smoothed(np.cumsum(rng.standard_normal(frames)), width=21) * 0.01
    pitch = voice.pitch * np.exp(walk - walk.mean() + np.linspace(0.06, -0.06, frames))
    phase = np.cumsum(_repeated(pitch)) / RATE + rng.random()
    x = (phase % 1.0) / _OPEN_QUOTIENT
    is_open = x < 1
    pulse = np.where(is_open, 2 * x - 3 * x**2, 0.0)
    noise = rng.standard_normal(len(pulse)) * np.where(is_open, 1.0, 0.2)
    return pulse + voice.breathiness * noise


def _formant_filter(source: np.ndarray, formants: np.ndarray) -> np.ndarray:
    """A cascade of resonators whose formants, Hz [frames k], change with every frame."""
    from scipy.signal import sosfilt  # takes a while to import

    radius = np.exp(-np.pi * np.array(_BANDWIDTHS) / RATE)
    sections = np.zeros((*formants.shape, 6))
    sections[..., 3] = 1
    sections[..., 4] = -2 * radius * np.cos(2 * np.pi * formants / RATE)
    sections[..., 5] = radius**2
    sections[..., 0] = sections[..., 3:].sum(axis=-1)  # unit gain at 0 Hz
    state = np.zeros((formants.shape[1], 2))
    out = np.empty_like(source)
    for frame, coefficients in enumerate(sections):
        part = slice(frame * FRAME, (frame + 1) * FRAME)
        out[part], state = sosfilt(coefficients, source[part], zi=state)
    return out


def _resonated(noise: np.ndarray, centre: float, width: float) -> np.ndarray:
    from scipy.signal import lfilter

    radius = np.exp(-np.pi * width / RATE)
    denominator = [1.0, -2 * radius * np.cos(2 * np.pi * centre / RATE), radius**2]
    return lfilter([1.0, 0.0, -1.0], denominator, noise)


def _repeated(values: np.ndarray) -> np.ndarray:
    """Values of frames for each sample, linear between the frames' centres."""
    samples = np.arange(len(values) * FRAME)
    return np.interp(samples, np.arange(len(values)) * FRAME + FRAME / 2, values)


def _smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """Moving average over `width` frames of [frames ...], with the ends repeated."""
    padding = [(width // 2, width // 2)] + [(0, 0)] * (values.ndim - 1)
    padded = np.pad(values, padding, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, width, axis=0)
    return windows.mean(axis=-1)
