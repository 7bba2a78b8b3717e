"""`speech`: synthetic speech of several voices, with the phone and the speaker of every frame.

Any number of utterances without a download, see `ssl_jax.data.audio.synthetic`. An utterance is a
function of (seed, split, number). It has 2.56 seconds; utterance i is of speaker i modulo the
number of speakers. The speakers of both splits are the same. The label of an example is its
speaker.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from ssl_jax.config.fields import between
from ssl_jax.core.errors import UserError
from ssl_jax.data.audio import synthetic
from ssl_jax.data.audio.audio_kind import AudioKind
from ssl_jax.data.audio.audio_source import AudioOptions, GeneratedAudioSource, chosen_targets
from ssl_jax.data.audio.recordings import Recordings
from ssl_jax.data.kind import Facts
from ssl_jax.data.request import Request
from ssl_jax.modalities.audio import FRAME_TARGETS

SPLITS = ("train", "test")
NUM_GENERATED = 400
NUM_SPEAKERS = 16
FRAMES = 256  # of an utterance


def sizes(num_generated: int) -> dict[str, int]:
    """Utterances of each split: `test` is a fifth of `train` on top."""
    return {"train": num_generated, "test": max(num_generated // 5, 1)}


def dataset(
    location: str,
    request: Request,
    read: AudioOptions,
    *,
    num_generated: Annotated[
        int, between(1, 1_000_000), "Utterances of the train split; test is a fifth of it on top."
    ] = NUM_GENERATED,
    num_speakers: Annotated[int, between(1, 10_000), "Voices."] = NUM_SPEAKERS,
) -> Speech:
    """The data set; `location` is empty."""
    del location
    return Speech(read, num_generated, num_speakers, request.seed)


@dataclasses.dataclass(frozen=True)
class Speech:
    """Synthetic speech, in both splits."""

    read: AudioOptions
    num_generated: int
    num_speakers: int
    seed: int
    splits = SPLITS

    def __post_init__(self) -> None:
        for option, value in (("sample_rate", synthetic.RATE), ("frame", synthetic.FRAME)):
            if getattr(self.read, option) != value:
                raise UserError(
                    f"data.options.{option} is {getattr(self.read, option)}, but speech is made "
                    f"with {value}; leave it unset"
                )

    def source(self, split: str) -> GeneratedAudioSource:
        count = sizes(self.num_generated)[split]
        recordings = Utterances.make(self.seed, SPLITS.index(split), count, self.num_speakers)
        return GeneratedAudioSource(
            name=f"speech[{split}]",
            recordings=recordings,
            options=self.read,
            targets=chosen_targets(dict.fromkeys(FRAME_TARGETS, True), self.read, "speech"),
            num_classes=self.num_speakers,
            class_names=tuple(f"speaker {number}" for number in range(self.num_speakers)),
        )


@dataclasses.dataclass(frozen=True)
class Utterances(Recordings):
    """Utterances in memory: `waves` int16 [m s] and `frames` uint8 [m t], the phones."""

    waves: np.ndarray
    frames: np.ndarray
    speakers: np.ndarray

    @classmethod
    def make(cls, seed: int, split: int, count: int, num_speakers: int) -> Utterances:
        """Synthesises `count` utterances of a split."""
        waves = np.empty((count, FRAMES * synthetic.FRAME), np.int16)
        frames = np.empty((count, FRAMES), np.uint8)
        speakers = (np.arange(count) % num_speakers).astype(np.int32)
        for number, speaker in enumerate(speakers.tolist()):
            voice = synthetic.speaker(speaker)
            waves[number], frames[number] = synthetic.utterance(seed, split, number, voice, FRAMES)
        return cls(waves, frames, speakers)

    @property
    def lengths(self) -> np.ndarray:
        return np.full(len(self.waves), self.waves.shape[1], np.int64)

    @property
    def labels(self) -> np.ndarray:
        return self.speakers

    def name(self, number: int) -> str:
        return f"speech utterance {number}"

    def samples(self, number: int, start: int, stop: int) -> np.ndarray:
        return self.waves[number, start:stop]

    def phones(self, number: int) -> np.ndarray:
        return self.frames[number]


def known(read: AudioOptions, options: Mapping[str, Any]) -> Facts:
    """The facts of a data set with these options."""
    windows = -(-FRAMES * synthetic.FRAME // read.window)
    return Facts(
        sizes(options["num_generated"]), options["num_speakers"], examples_per_piece=windows
    )


KIND = AudioKind(name="speech", dataset=dataset, targets=lambda options: FRAME_TARGETS, known=known)
