"""Recordings in files: their headers are read at once, their samples when they are needed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from concurrent import futures

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.audio import files
from ssl_jax.data.audio.recordings import Recordings
from ssl_jax.data.names import Names
from ssl_jax.data.workers import cores


@dataclasses.dataclass(frozen=True)
class FileRecordings(Recordings):
    """Audio files.

    Attributes:
      root: the folder that paths are relative to.
      paths: of the files.
      lengths, labels, speakers: as of `Recordings`.
      rate: samples per second that they are read with.
    """

    root: str
    paths: Sequence[str]
    lengths: np.ndarray
    labels: np.ndarray | None
    speakers: np.ndarray | None
    rate: int

    @classmethod
    def scan(
        cls,
        data_name: str,
        root: str,
        paths: Sequence[str],
        labels: np.ndarray | None,
        speakers: np.ndarray | None,
        *,
        rate: int,
        strict: bool,
    ) -> tuple[FileRecordings, dict[str, str]]:
        """Reads the headers of files.

        Args:
          data_name: of the data set, for messages.
          root: the folder that paths are relative to.
          paths: of the files.
          labels, speakers: int32 of each file; None: unknown.
          rate: samples per second to read them with.
          strict: whether a file that cannot be read is an error.

        Returns:
          (recordings, problems): the readable files, and the error of each other one by its path.

        Raises:
          UserError: no file can be read, or one cannot and `strict` is set.
        """
        whole = [os.path.join(root, path) for path in paths]
        kept, lengths, problems = scan_headers(
            data_name, whole, whole.__getitem__, rate=rate, strict=strict
        )
        recordings = cls(
            root=root,
            paths=Names(paths[i] for i in kept.tolist()),
            lengths=lengths,
            labels=None if labels is None else labels[kept],
            speakers=None if speakers is None else speakers[kept],
            rate=rate,
        )
        return recordings, problems

    def name(self, number: int) -> str:
        return os.path.join(self.root, self.paths[number])

    def samples(self, number: int, start: int, stop: int) -> np.ndarray:
        return files.read(self.name(number), start, stop, self.rate)


def scan_headers(
    data_name: str,
    names: Sequence[str],
    encoded: Callable[[int], files.Encoded],
    *,
    rate: int,
    strict: bool,
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Reads the headers of recordings, in threads.

    Args:
      data_name: of the data set, for messages.
      names: of the recordings, likewise.
      encoded: number -> the recording, as `files.header` takes it.
      rate: samples per second of the lengths.
      strict: whether a recording that cannot be read is an error.

    Returns:
      (kept int64 [m], lengths int64 [m], problems): the readable recordings and their lengths, and
      the error of each other one by its name.

    Raises:
      UserError: no recording can be read, or one cannot and `strict` is set.
    """
    files.require_soundfile()

    def length(number: int) -> int | str:
        try:
            return files.header(encoded(number)).length_at(rate)
        except (ValueError, OSError) as error:
            return str(error)

    with futures.ThreadPoolExecutor(4 * cores()) as pool:
        found = list(pool.map(length, range(len(names))))
    problems = {
        name: error for name, error in zip(names, found, strict=True) if isinstance(error, str)
    }
    if problems and (strict or len(problems) == len(names)):
        name, error = next(iter(problems.items()))
        many = f"; nor can {len(problems) - 1:,} others" * (len(problems) > 1)
        raise UserError(
            f"{data_name}: the recording {name} cannot be read ({error}){many}"
            + "; remove it, or set data.strict=False to leave it out" * strict
        )
    kept = [number for number, value in enumerate(found) if not isinstance(value, str)]
    lengths = [found[number] for number in kept]
    return np.array(kept, np.int64), np.array(lengths, np.int64), problems
