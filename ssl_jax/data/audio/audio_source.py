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
from ssl_jax.data.source import MAX_REPLACEMENTS, Arrays, Problem, Source
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
        return self.recordings.name(self._locate(index)[0])

    def _locate(self, index: int) -> tuple[int, int]:
        """The recording of an example, and the number of the window in it."""
        recording = int(np.searchsorted(self._ends, index, side="right"))
        return recording, index - int(self._ends[recording] - self._counts[recording])

    def _start(self, recording: int, window: int, where: float) -> int:
        """The first sample of a window; `where` in [0, 1) is the random number of its row."""
        options = self.options
        if options.windows == "consecutive":
            return window * options.window
        spare = max(0, int(self.recordings.lengths[recording]) - options.window)
        start = int((window + where) * spare / int(self._counts[recording]))
        return start // options.frame * options.frame

    def read(
        self, indices: np.ndarray, positions: np.ndarray, seed: int, step: int
    ) -> tuple[Arrays, list[Problem]]:
        n, options = len(indices), self.options
        arrays: Arrays = {
            "audio": np.zeros((n, options.window), np.int16),
            **{name: np.full((n, options.frames), -1, np.int32) for name in self.targets},
            "label": np.full(n, -1, np.int32),
            "index": indices.astype(np.int32),
        }
        stream = counter.key(seed, counter.Stream.WINDOWS, step)
        where = counter.uniform(stream, positions)
        problems: list[Problem] = []
        for row, index in enumerate(indices.tolist()):
            problems += self._fill(arrays, row, index, float(where[row]))
        return arrays, problems

    def _fill(self, arrays: Arrays, row: int, index: int, where: float) -> list[Problem]:
        """Reads an example into a row, or the first window of the next readable recording."""
        problems: list[Problem] = []
        recording, window = self._locate(index)
        tries = min(MAX_REPLACEMENTS, len(self.recordings))
        for _ in range(tries):
            start = self._start(recording, window, where)
            try:
                samples = self.recordings.samples(recording, start, start + self.options.window)
                if not len(samples):
                    raise ValueError(f"it ends before sample {start:,}, unlike its header says")
            except Exception as error:  # readers raise all kinds on broken files
                name, reason = self.recordings.name(recording), f"{type(error).__name__}: {error}"
                if self.strict:
                    raise UserError(
                        f"unreadable recording {name} ({reason}); remove it, or set "
                        "data.strict=False to replace it by the next readable one"
                    ) from error
                problems.append(Problem(row, name, reason))
                recording, window = (recording + 1) % len(self.recordings), 0
            else:
                arrays["audio"][row, : len(samples)] = samples
                self._fill_labels(arrays, row, recording, start, len(samples))
                return problems
        raise UserError(
            f"no readable recording among {tries} of {self.name} in a row; first: "
            f"{problems[0].name} ({problems[0].error})"
        )

    def _fill_labels(
        self, arrays: Arrays, row: int, recording: int, start: int, length: int
    ) -> None:
        frame = self.options.frame
        labels, speakers = self.recordings.labels, self.recordings.speakers
        if labels is not None:
            arrays["label"][row] = labels[recording]
        heard = min(self.options.frames, -(-length // frame))
        if SPEAKER in self.targets and speakers is not None:
            arrays[SPEAKER][row, :heard] = speakers[recording]
        phones = self.recordings.phones(recording) if PHONE in self.targets else None
        if phones is not None:
            phones = phones[start // frame :][:heard]
            arrays[PHONE][row, : len(phones)] = phones

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
