"""Recordings: what windows are cut from, in files, in archives or generated."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence

import numpy as np


class Recordings(abc.ABC):
    """Numbered recordings of one channel at one sample rate.

    Attributes:
      lengths: int64 [m], samples of each recording.
      labels: int32 [m], the class of each; -1 for none; None without classes.
      speakers: int32 [m], the speaker of each; None where speakers are not known.
    """

    lengths: np.ndarray
    labels: np.ndarray | None
    speakers: np.ndarray | None

    def __len__(self) -> int:
        return len(self.lengths)

    @abc.abstractmethod
    def name(self, number: int) -> str:
        """The name of a recording in messages."""

    @abc.abstractmethod
    def samples(self, number: int, start: int, stop: int) -> np.ndarray:
        """Samples of a recording, int16 [s]; fewer than stop - start if it ends before.

        Raises:
          ValueError, OSError: it cannot be read.
        """

    def phones(self, number: int) -> np.ndarray | None:
        """The phone of each frame, int [t], perhaps fewer than there are frames; None: unknown."""
        del number
        return None


@dataclasses.dataclass(frozen=True)
class Selected(Recordings):
    """Recordings `rows` (int64 [m]) of several `parts`, numbered one after the other."""

    parts: tuple[Recordings, ...]
    rows: np.ndarray

    def __post_init__(self) -> None:
        for name in ("lengths", "labels", "speakers"):
            columns = [getattr(part, name) for part in self.parts]
            known = all(column is not None for column in columns)
            value = np.concatenate(columns)[self.rows] if known else None
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, parts: Sequence[Recordings], rows: np.ndarray | None = None) -> Selected:
        """Recordings of `parts`; without `rows` all of them."""
        total = sum(map(len, parts))
        return cls(tuple(parts), np.arange(total) if rows is None else np.asarray(rows))

    def _at(self, number: int) -> tuple[Recordings, int]:
        number = int(self.rows[number])
        for part in self.parts:
            if number < len(part):
                return part, number
            number -= len(part)
        raise IndexError(number)

    def name(self, number: int) -> str:
        part, number = self._at(number)
        return part.name(number)

    def samples(self, number: int, start: int, stop: int) -> np.ndarray:
        part, number = self._at(number)
        return part.samples(number, start, stop)

    def phones(self, number: int) -> np.ndarray | None:
        part, number = self._at(number)
        return part.phones(number)
