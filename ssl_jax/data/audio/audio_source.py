"""Audio as a source: windows of recordings, with the phone and the speaker of each frame.

A recording of L samples gives ceil(L / w) examples, windows of w samples. In training they begin at
random (`windows="random"`): window k of c begins at a time that is uniform in the k-th of c equal
parts of [0, L - w], drawn for (seed, step, position in the batch), and rounded down to a frame. In
evaluation they are consecutive, and the last one is padded with zeros. Frames beyond the end of a
recording have no label (-1).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from ssl_jax.config.fields import between
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec
from ssl_jax.data import counter
from ssl_jax.data.audio.recordings import Recordings, Selected
from ssl_jax.data.source import (
    MAX_REPLACEMENTS,
    Arrays,
    Problem,
    Source,
    none_readable,
    unreadable,
)
from ssl_jax.modalities.audio import AUDIO, PHONE, SPEAKER

_LOOKED_AT = 64  # recordings of a source, to note silent ones
_HEARD_SECONDS = 10  # of each


@dataclasses.dataclass(frozen=True)
class AudioOptions:
    """The options of every kind of audio."""

    window: Annotated[
        int, between(1, 2**24), "Samples of a window; 20,480 are 1.28 s at 16 kHz (CPC)."
    ] = 20_480
    sample_rate: Annotated[
        int,
        between(1_000, 768_000),
        "Samples per second; recordings with another rate are changed.",
    ] = 16_000
    frame: Annotated[
        int, between(1, 2**16), "Samples of a frame, the unit of labels: the encoder's stride."
    ] = 160
    windows: Annotated[
        Literal["random", "consecutive"],
        "Where windows begin: at random, for training, or each after the last, for evaluation.",
    ] = "random"
    targets: Annotated[
        tuple[Literal["phone", "speaker"], ...] | None,
        "Labels of frames; a run fills it in. None: those that the data have.",
    ] = None

    def check(self) -> None:
        """Raises UserError if a window is not a whole number of frames."""
        if self.window % self.frame:
            down = max(1, self.window // self.frame) * self.frame
            raise UserError(
                f"data.options.window is {self.window}; it must be a multiple of "
                f"data.options.frame, {self.frame}, e.g. {down} or {down + self.frame}"
            )

    @property
    def frames(self) -> int:
        """Frames of a window."""
        return self.window // self.frame

    def spec(self, targets: Sequence[str], num_examples: int, num_classes: int | None) -> DataSpec:
        """The DataSpec of windows with these labels of frames."""
        return AUDIO.spec(self.window, self.frames, targets, num_examples, num_classes)


@dataclasses.dataclass
class AudioSource(Source):
    """Windows of recordings.

    Attributes:
      recordings: what the windows are cut from.
      options: of every kind of audio.
      targets: the labels of frames that batches have.
      strict: whether an unreadable recording stops the run.
      earlier_notes: of the data set, see `notes`.
    """

    recordings: Recordings = dataclasses.field(kw_only=True)
    options: AudioOptions = dataclasses.field(kw_only=True)
    targets: tuple[str, ...] = dataclasses.field(kw_only=True)
    strict: bool = dataclasses.field(default=False, kw_only=True)
    earlier_notes: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)

    unit: ClassVar[str] = "recording"

    def __post_init__(self) -> None:
        counts = np.maximum(1, -(-self.recordings.lengths // self.options.window))
        self._ends = np.cumsum(counts)
        self._counts = counts
        if self.recordings.labels is not None:
            self.labels = np.repeat(self.recordings.labels, counts).astype(np.int32)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def extent(self) -> int:
        """Number of recordings: a sub-split does not cut through one."""
        return len(self.recordings)

    @property
    def spec(self) -> DataSpec:
        return self.options.spec(self.targets, len(self), self.num_classes)

    def select(self, start: int, stop: int) -> AudioSource:
        rows = np.arange(len(self.recordings))[start:stop]
        return self._of(Selected.of((self.recordings,), rows))

    def joined(self, others: Sequence[AudioSource]) -> AudioSource:
        return self._of(Selected.of([source.recordings for source in (self, *others)]))

    def _of(self, recordings: Recordings) -> AudioSource:
        return dataclasses.replace(
            self, recordings=recordings, labels=None, problems=dict(self.problems)
        )

    def example_name(self, index: int) -> str:
        return self.recordings.name(int(self._locate(np.array([index]))[0][0]))

    def _locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The recordings of examples, and the numbers of their windows, int64 [n] each."""
        recordings = np.searchsorted(self._ends, indices, side="right")
        return recordings, indices - (self._ends[recordings] - self._counts[recordings])

    def _starts(self, recordings: np.ndarray, windows: np.ndarray, where: np.ndarray) -> np.ndarray:
        """The first samples of windows, int64 [n].

        Args:
          recordings, windows: int64 [n], numbers of recordings and of windows in them.
          where: float64 [n] in [0, 1), the random numbers of the rows.
        """
        options = self.options
        if options.windows == "consecutive":
            return windows * options.window
        spare = np.maximum(0, self.recordings.lengths[recordings] - options.window)
        starts = ((windows + where) * spare / self._counts[recordings]).astype(np.int64)
        return starts // options.frame * options.frame

    def read(
        self, indices: np.ndarray, positions: np.ndarray, seed: int, step: int
    ) -> tuple[Arrays, list[Problem]]:
        where = counter.uniform(counter.key(seed, counter.Stream.WINDOWS, step), positions)
        recordings, windows = self._locate(indices)
        starts = self._starts(recordings, windows, where)
        audio = np.empty((len(indices), self.options.window), np.int16)
        lengths = np.empty(len(indices), np.int64)
        problems: list[Problem] = []
        for row, (recording, start) in enumerate(
            zip(recordings.tolist(), starts.tolist(), strict=True)
        ):
            try:
                lengths[row] = self._fill(audio[row], recording, start)
            except Exception as error:  # readers raise all kinds on broken files
                recordings[row], starts[row], lengths[row], found = self._replace(
                    audio[row], row, recording, error, where[row]
                )
                problems += found
        arrays = {"audio": audio, **self._labels(recordings, starts, lengths)}
        return arrays | {"index": indices.astype(np.int32)}, problems

    def _fill(self, out: np.ndarray, recording: int, start: int) -> int:
        """Reads a window of a recording into `out`, int16 [w]; the number of samples in it."""
        samples = self.recordings.samples(recording, start, start + len(out))
        if not len(samples):
            raise ValueError(f"it ends before sample {start:,}, unlike its header says")
        out[: len(samples)] = samples
        out[len(samples) :] = 0
        return len(samples)

    def _replace(
        self, out: np.ndarray, row: int, recording: int, error: Exception, where: float
    ) -> tuple[int, int, int, list[Problem]]:
        """Fills the row of an unreadable recording with the first window of the next readable one.

        Args:
          out: int16 [w], the row.
          row: its number.
          recording: the unreadable one, and `error` what its reader raised.
          where: the random number of the row.

        Returns:
          (recording, start, length) of the window, and the unreadable recordings up to it.

        Raises:
          UserError: no recording can be read, or `strict` is set.
        """
        problems: list[Problem] = []
        tries = min(MAX_REPLACEMENTS, len(self.recordings))
        while True:
            name = self.recordings.name(recording)
            problems.append(unreadable("recording", row, name, error, strict=self.strict))
            if len(problems) == tries:
                raise none_readable("recording", self.name, problems)
            recording = (recording + 1) % len(self.recordings)
            (start,) = self._starts(
                np.array([recording]), np.array([0]), np.array([where])
            ).tolist()
            try:
                return recording, start, self._fill(out, recording, start), problems
            except Exception as next_error:  # readers raise all kinds on broken files
                error = next_error

    def _labels(self, recordings: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Arrays:
        """The labels of windows and of their frames.

        Args:
          recordings, starts, lengths: int64 [n]; of each window its recording, its first sample and
            its number of samples.
        """
        n, frames, frame = len(recordings), self.options.frames, self.options.frame
        labels, speakers = self.recordings.labels, self.recordings.speakers
        heard = np.minimum(frames, -(-lengths // frame))
        arrays: Arrays = {}
        for name in self.targets:
            arrays[name] = out = np.full((n, frames), -1, np.int32)
            if name == SPEAKER and speakers is not None:
                inside = np.arange(frames) < heard[:, None]
                np.copyto(out, speakers[recordings][:, None], where=inside)
            elif name == PHONE:
                for row, recording in enumerate(recordings.tolist()):
                    phones = self.recordings.phones(recording)
                    if phones is not None:
                        phones = phones[starts[row] // frame :][: heard[row]]
                        out[row, : len(phones)] = phones
        known = labels is not None
        label = labels[recordings].astype(np.int32) if known else np.full(n, -1, np.int32)
        return arrays | {"label": label}

    def padding(self, key: str) -> int:
        return 0 if key == "audio" else -1

    def problem_summary(
        self, done: str = "left out or replaced by the next readable one"
    ) -> str | None:
        return super().problem_summary(done)

    def notes(self) -> list[str]:
        """`earlier_notes`, and a line if some of `_LOOKED_AT` recordings are silent."""
        silent, looked_at = [], min(len(self.recordings), _LOOKED_AT)
        seconds = _HEARD_SECONDS * self.options.sample_rate
        rows = np.linspace(0, len(self.recordings) - 1, looked_at).astype(int)
        for recording in rows.tolist():
            with contextlib.suppress(Exception):  # `read` tells of those that cannot be read
                if not np.any(self.recordings.samples(recording, 0, seconds)):
                    silent.append(self.recordings.name(recording))
        if not silent:
            return [*self.earlier_notes]
        return [
            *self.earlier_notes,
            f"{len(silent)} of {looked_at} recordings looked at are silent (of their first "
            f"{_HEARD_SECONDS} s all samples are 0); first: {silent[0]}",
        ]


class GeneratedAudioSource(AudioSource):
    """Windows of recordings in memory."""

    in_memory: ClassVar[bool] = True

    def notes(self) -> list[str]:
        return []


def chosen_targets(available: dict[str, Any], options: AudioOptions, name: str) -> tuple[str, ...]:
    """The labels of frames of a data set.

    Args:
      available: the labels by name; None where the data have none.
      options: `targets` selects some of them.
      name: of the data set.

    Raises:
      UserError: `targets` names one that the data do not have.
    """
    there = tuple(key for key, value in available.items() if value is not None)
    for target in options.targets or ():
        if target not in there:
            raise UserError(
                f"data.options.targets names {target!r}, but {name} has no such labels of frames; "
                f"it has {', '.join(there) or 'none'}"
            )
    return there if options.targets is None else options.targets
