"""Sets of audio that TensorFlow Datasets has prepared, such as librispeech and speech_commands.

TFDS stores samples beside the other features of a record, without an index of lengths. So a split
is read once when it is opened, in threads: 100 hours of LibriSpeech are 12 GB of samples.
"""

from __future__ import annotations

import dataclasses
import os
from concurrent import futures
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data import class_names
from ssl_jax.data.audio import files
from ssl_jax.data.audio.audio_source import AudioOptions, AudioSource, chosen_targets
from ssl_jax.data.audio.recordings import Recordings
from ssl_jax.data.tfds import records as records_lib
from ssl_jax.modalities.audio import SPEAKER

# Features that are speakers, where `speaker_key` does not say; numbers or names.
_SPEAKER_KEYS = ("speaker_id", "speaker")
_AT_ONCE = 64  # records that a thread reads before it takes up others


class TfdsAudio:
    """A prepared TFDS data set of audio. A feature that is a class is the label, else the speaker.

    Args:
      tfds, builder: of `records.open_builder`.
      location: of the data set.
      read: options of every kind of audio.
      audio_key, label_key, speaker_key: names of the features; None: see `kinds/tfds.py`.
      strict: whether a record that cannot be read is an error.

    Raises:
      UserError: its features do not say which is the audio.
    """

    def __init__(
        self, tfds: Any, location: str, builder: Any, read: AudioOptions, *, audio_key: str | None,
        label_key: str | None, speaker_key: str | None, strict: bool,
    ):  # fmt: skip
        features = builder.info.features
        self._location, self._builder, self._read, self._strict = location, builder, read, strict
        found = records_lib.key(location, features, "audio_key", audio_key, tfds.features.Audio)
        if found is None:
            raise UserError(
                f"tfds:{location} has no audio feature; features: {', '.join(features)}"
            )
        self._audio_key = found
        self._label_key = records_lib.key(
            location, features, "label_key", label_key, tfds.features.ClassLabel
        )
        there = [key for key in _SPEAKER_KEYS if key in features]
        if speaker_key is not None and speaker_key not in features:
            raise UserError(
                f"tfds:{location}: speaker_key {speaker_key!r} is not one of {', '.join(features)}"
            )
        self._speaker_key = speaker_key or (there[0] if there else None)

    @property
    def splits(self) -> tuple[str, ...]:
        """Raises UserError if the data set is not prepared and so does not say."""
        return records_lib.splits(self._location, self._builder, ())

    def source(self, split: str) -> AudioSource:
        """Opens a split.

        Raises:
          UserError: the data set is not prepared, or not in a format that can be read at random, or
            a record cannot be read.
        """
        name = f"tfds:{self._location}[{split}]"
        records = records_lib.open_records(self._location, self._builder, split)
        feature = self._builder.info.features[self._audio_key]
        rate = feature.sample_rate or self._read.sample_rate
        lengths, labels, said_by = self._scan(name, records, rate)
        speakers = names = None
        if said_by is not None:
            names = class_names.in_order(set(said_by))
            number_of = {speaker: number for number, speaker in enumerate(names)}
            speakers = np.array([number_of[speaker] for speaker in said_by], np.int32)
        count = len(names) if names else None
        if labels is None:
            labels = speakers
        else:
            label = self._builder.info.features[self._label_key]
            names, count = tuple(label.names or ()) or None, label.num_classes
        return AudioSource(
            name=name,
            recordings=TfdsRecordings(
                records, name, self._audio_key, lengths, labels, speakers,
                rate, self._read.sample_rate,
            ),
            options=self._read,
            targets=chosen_targets({SPEAKER: speakers}, self._read, f"tfds:{self._location}"),
            strict=self._strict,
            num_classes=count,
            class_names=names,
        )  # fmt: skip

    def _scan(
        self, name: str, records: Any, rate: int
    ) -> tuple[np.ndarray, np.ndarray | None, list[str] | None]:
        """Lengths int64, labels int32 and names of speakers of all records."""

        def facts(start: int) -> list[tuple[int, int, str]]:
            found = []
            for row in range(start, min(start + _AT_ONCE, len(records))):
                record = records[row]
                label = -1 if self._label_key is None else int(record[self._label_key])
                speaker = record.get(self._speaker_key) if self._speaker_key else None
                found.append((len(record[self._audio_key]), label, str(records_lib.plain(speaker))))
            return found

        try:
            with futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
                parts = list(pool.map(facts, range(0, len(records), _AT_ONCE)))
            up, down = files.factors(rate, self._read.sample_rate)
        except Exception as error:  # readers of records raise all kinds on broken files
            raise UserError(f"{name} cannot be read: {type(error).__name__}: {error}") from error
        samples, labels, speakers = zip(*(row for part in parts for row in part), strict=True)
        lengths = -(-np.array(samples, np.int64) * up // down)
        return (
            lengths,
            None if self._label_key is None else np.array(labels, np.int32),
            None if self._speaker_key is None else list(speakers),
        )


@dataclasses.dataclass(frozen=True)
class TfdsRecordings(Recordings):
    """Records of one split.

    Attributes:
      records: TFDS's data source.
      split: its name in messages.
      audio_key: the feature of a record that is its samples.
      lengths, labels, speakers: as of `Recordings`.
      own_rate, rate: samples per second of the records, and those that they are read with.
    """

    records: Any
    split: str
    audio_key: str
    lengths: np.ndarray
    labels: np.ndarray | None
    speakers: np.ndarray | None
    own_rate: int
    rate: int

    def name(self, number: int) -> str:
        return f"record {number} of {self.split}"

    def samples(self, number: int, start: int, stop: int) -> np.ndarray:
        samples = self.records[number][self.audio_key]
        return files.read_array(samples, self.own_rate, start, stop, self.rate)
