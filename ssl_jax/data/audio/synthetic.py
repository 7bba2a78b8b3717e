"""Synthetic speech: a source and a filter, in the manner of formant synthesizers (Klatt 1980).

The source is a train of glottal pulses U' = 2x - 3x^2 (Klatt and Klatt 1990) at the speaker's
pitch, with noise while the glottis is open; the filter is a cascade of four resonators at the
formants of the phone, times the speaker's formant scale. Fricatives are noise through a resonator
of their own. Vowels have the formants that Peterson and Barney (1952) measured of men.

What is said are words of a small lexicon, the frequent ones more often (Zipf), with pauses. What
makes speech hard is there in a small way: a vowel's formants differ each time it is said, glide
from phone to phone, and do not reach their targets in short ones; phones vary in length; each
speaker has a room and a microphone of his own, as the volunteers of LibriSpeech, which colour the
spectrum and add noise.

It sounds like a machine that babbles, and it is no substitute for speech.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from ssl_jax.data import counter

RATE = 16_000  # the rate of synthesis; formants and fricatives need it
FRAME = 160  # samples for which the filter is constant
_PEAK = 0.5  # of the waveforms, before the gain of an utterance
_OPEN_QUOTIENT = 0.6  # share of a pitch period in which the glottis is open
_FOURTH_FORMANT = 3_500.0  # Hz
_BANDWIDTHS = (70.0, 90.0, 130.0, 200.0)  # Hz, of the four formants
_SPREAD = 0.06  # standard deviation of the log formants of a phone from one time to the next
_GLIDE = 9  # frames over which formants move from phone to phone
_REVERBERATION = 0.03  # seconds in which the room's echoes fall to 1/e
_ECHOES = 0.5  # energy of the echoes, relative to the direct sound

# Phone -> the first three formants in Hz.
VOWELS = {
    "iy": (270, 2290, 3010),
    "ih": (390, 1990, 2550),
    "eh": (530, 1840, 2480),
    "ae": (660, 1720, 2410),
    "ah": (640, 1190, 2390),
    "aa": (730, 1090, 2440),
    "ao": (570, 840, 2410),
    "uh": (440, 1020, 2240),
    "uw": (300, 870, 2240),
    "er": (490, 1350, 1690),
}
NASALS = {"m": (250, 1000, 2200), "n": (250, 1600, 2600)}
# Phone -> centre, width in Hz and loudness of its noise.
FRICATIVES = {
    "s": (6000.0, 1800.0, 0.1), "sh": (2800.0, 1000.0, 0.1), "f": (4500.0, 6000.0, 0.03),
}  # fmt: skip
SILENCE = "sil"
PHONES = (SILENCE, *VOWELS, *NASALS, *FRICATIVES)
NUM_WORDS = 40

_FORMANTS = np.array(
    [VOWELS.get(p) or NASALS.get(p) or (500, 1500, 2500) for p in PHONES], np.float64
)
# Amplitude of voice by phone.
_VOICE = np.array([1.0 if p in VOWELS else 0.5 if p in NASALS else 0.0 for p in PHONES])
# Shortest and longest duration by phone, frames of 10 ms.
_DURATIONS = np.array(
    [(6, 14) if p == SILENCE else (6, 15) if p in VOWELS else (5, 11) for p in PHONES]
)


@dataclasses.dataclass(frozen=True)
class Speaker:
    """A voice, and where it is recorded.

    Attributes:
      pitch: mean fundamental frequency, Hz.
      formant_scale: factor of all formants: the inverse of the length of the vocal tract.
      breathiness: amplitude of noise relative to the pulses.
      response: impulse response of room and microphone, float64 [t].
      noise: amplitude of the recording's noise, relative to full scale.
    """

    pitch: float
    formant_scale: float
    breathiness: float
    response: np.ndarray = dataclasses.field(compare=False)
    noise: float


@functools.lru_cache(maxsize=1_000)
def speaker(number: int) -> Speaker:
    """The voice of speaker `number`: points of an additive recurrence, which are evenly spread."""
    # Powers of the inverse of the real root of x^4 = x + 1, for three dimensions.
    root = 1.2207440846057596
    u, v, w = ((0.5 + (number + 1) / root**k) % 1.0 for k in (1, 2, 3))
    rng = np.random.default_rng(counter.key(0, counter.Stream.SPEECH, 2, number))
    return Speaker(
        pitch=85.0 * (250.0 / 85.0) ** u,
        formant_scale=0.85 + 0.35 * v,
        breathiness=0.03 * (0.5 / 0.03) ** w,
        response=_response(rng),
        noise=10 ** rng.uniform(-3.0, -2.0),
    )


def _response(rng: np.random.Generator) -> np.ndarray:
    """A microphone, whose response varies slowly with frequency, in a room with echoes."""
    from scipy.signal import firwin2

    frequency = np.linspace(0, 1, 33)
    waves = np.cos(np.pi * np.arange(1, 4)[:, None] * np.sqrt(frequency))
    decibels = rng.normal(0, 3.0, 3) @ waves + rng.uniform(-6, 0) * frequency
    microphone = firwin2(65, frequency, 10 ** (decibels / 20))
    time = np.arange(round(3 * _REVERBERATION * RATE)) / RATE
    echoes = rng.standard_normal(len(time)) * np.exp(-time / _REVERBERATION)
    echoes *= np.sqrt(_ECHOES / np.square(echoes).sum())
    echoes[0] += 1
    return np.convolve(microphone, echoes)


@functools.cache
def words() -> tuple[tuple[int, ...], ...]:
    """The lexicon: words of one to three syllables, numbers of their phones."""
    rng = np.random.default_rng(counter.key(0, counter.Stream.SPEECH, 3, 0))
    vowels = [PHONES.index(p) for p in VOWELS]
    consonants = [PHONES.index(p) for p in (*NASALS, *FRICATIVES)]
    lexicon: dict[tuple[int, ...], None] = {}
    while len(lexicon) < NUM_WORDS:
        word: list[int] = []
        for _ in range(rng.integers(1, 4)):
            if word or rng.random() < 0.8:
                word.append(int(rng.choice(consonants)))
            word.append(int(rng.choice(vowels)))
        if rng.random() < 0.3:
            word.append(int(rng.choice(consonants)))
        lexicon[tuple(word)] = None
    return tuple(lexicon)


def utterance(seed: int, split: int, number: int, voice: Speaker, frames: int) -> tuple:
    """A random utterance.

    Args:
      seed, split, number: name the utterance; equal ones give equal samples.
      voice: who speaks.
      frames: its length in frames of 10 ms.

    Returns:
      (samples int16 [160 frames], phones uint8 [frames]).
    """
    from scipy.signal import fftconvolve

    rng = np.random.default_rng(counter.key(seed, counter.Stream.SPEECH, split, number))
    phones, formants = _draw_phones(rng, frames)
    formants = np.exp(_smoothed(np.log(formants), width=_GLIDE)) * voice.formant_scale
    fourth = np.full((frames, 1), _FOURTH_FORMANT * voice.formant_scale)
    formants = np.concatenate([formants, fourth], axis=1)  # [frames 4]
    voiced = _repeated(_smoothed(_VOICE[phones], width=5)) * _pulses(rng, voice, frames)
    wave = _formant_filter(voiced, formants)
    wave *= _PEAK / max(np.abs(wave).max(), 1e-9)
    for phone, (centre, width, volume) in FRICATIVES.items():
        loudness = _smoothed((phones == PHONES.index(phone)).astype(np.float64), width=5)
        if loudness.any():
            noise = _resonated(rng.standard_normal(len(wave)), centre, width)
            wave += _PEAK * volume * _repeated(loudness) * noise / noise.std()
    wave = fftconvolve(wave, voice.response)[: len(wave)]
    wave *= _PEAK / max(np.abs(wave).max(), 1e-9)
    gain = 10 ** rng.uniform(-0.2, 0.0)  # distances to the microphone differ by up to 4 dB
    wave = gain * wave + voice.noise * rng.standard_normal(len(wave))
    return np.clip(np.rint(wave * 32_768), -32_768, 32_767).astype(np.int16), phones


def _draw_phones(rng: np.random.Generator, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Phones of frames, uint8, and their formants in Hz [frames 3]: words and pauses."""
    lexicon = words()
    zipf = 1 / np.arange(1, len(lexicon) + 1)
    phones, formants, total = [], [], 0
    pending = [PHONES.index(SILENCE)]
    while total < frames:
        if not pending:
            pending += lexicon[rng.choice(len(lexicon), p=zipf / zipf.sum())]
            if rng.random() < 0.3:
                pending.append(PHONES.index(SILENCE))
        phone = pending.pop(0)
        low, high = _DURATIONS[phone]
        duration = int(rng.integers(low, high + 1))
        said = _FORMANTS[phone] * np.exp(_SPREAD * rng.standard_normal(3))
        phones.append(np.full(duration, phone, np.uint8))
        formants.append(np.tile(said, (duration, 1)))
        total += duration
    return np.concatenate(phones)[:frames], np.concatenate(formants)[:frames]


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
