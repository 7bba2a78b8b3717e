"""Recordings in tar files, read at their places."""

from __future__ import annotations

import dataclasses
import io
import os
from typing import Any

import numpy as np

from ssl_jax.data.audio import files as audio_files
from ssl_jax.data.audio.recordings import Recordings
from ssl_jax.data.names import Names


@dataclasses.dataclass(frozen=True)
class TarRecordings(Recordings):
    """Audio files in tar files.

    Attributes:
      shards: paths of the tar files.
      places: int64 [m 3], of each recording its shard, first byte and number of bytes.
      names: of the recordings.
      lengths, labels: as of `Recordings`.
      rate: samples per second that they are read with.
    """

    shards: tuple[str, ...]
    places: np.ndarray
    names: Names
    lengths: np.ndarray
    labels: np.ndarray | None
    rate: int
    speakers: None = None

    def name(self, number: int) -> str:
        return self.names[number]

    def samples(self, number: int, start: int, stop: int) -> np.ndarray:
        shard, offset, length = self.places[number].tolist()
        with Part(self.shards[shard], offset, length) as part:
            return audio_files.read(part, start, stop, self.rate)


class Part(io.RawIOBase):
    """`length` bytes of a file from `offset` as a file of their own, to read and seek in."""

    def __init__(self, path: str, offset: int, length: int):
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  # closed by `close`
        self._offset, self._length, self._place = offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._length}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._length - self._place))
        content = os.pread(self._file.fileno(), count, self._offset + self._place)
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()
