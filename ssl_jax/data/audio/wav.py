"""The plainest WAV files without a decoder: one channel of 16-bit samples, and nothing after them.

Opening a file with libsndfile takes five times as long as reading a second of such samples. All
other files are libsndfile's (`ssl_jax.data.audio.files`).
"""

from __future__ import annotations

import os
import struct

import numpy as np

_LOOKED_AT = 256  # bytes in which the samples have to begin
_SAMPLE_BYTES = 2


def read(path: str, start: int, stop: int, rate: int) -> np.ndarray | None:
    """The samples `start` to `stop` of a file.

    Args:
      path: of the file.
      start, stop: sample numbers, from 0. Fewer are returned if the file ends before `stop`.
      rate: samples per second that the file must have.

    Returns:
      int16 [s], read-only; None: the file is not of this kind.

    Raises:
      OSError: it cannot be opened or read.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        head = os.read(descriptor, _LOOKED_AT)
        end = os.fstat(descriptor).st_size
        first = _first_byte(head, end, rate)
        if first is None:
            return None
        count = max(0, min(stop, (end - first) // _SAMPLE_BYTES) - start)
        os.lseek(descriptor, first + _SAMPLE_BYTES * start, os.SEEK_SET)
        content = os.read(descriptor, _SAMPLE_BYTES * count)
    finally:
        os.close(descriptor)
    if len(content) != _SAMPLE_BYTES * count:
        raise OSError(f"only {len(content):,} of {_SAMPLE_BYTES * count:,} bytes could be read")
    return np.frombuffer(content, "<i2").astype(np.int16, copy=False)


def _first_byte(head: bytes, end: int, rate: int) -> int | None:
    """Where the samples begin; None if the file is not of this kind.

    Args:
      head: the first bytes of the file.
      end: its length in bytes.
      rate: samples per second that it must have.
    """
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    # Format 1 is PCM; then channels, samples and bytes a second, bytes and bits of a sample.
    wanted = struct.pack("<HHIIHH", 1, 1, rate, _SAMPLE_BYTES * rate, _SAMPLE_BYTES, 16)
    plain, at = False, 12
    while at + 8 <= len(head):
        name, size = struct.unpack_from("<4sI", head, at)
        at += 8
        if name == b"data":
            return at if plain and size and size % _SAMPLE_BYTES == 0 and at + size == end else None
        if name == b"fmt ":
            plain = head[at : at + size] == wanted
        at += size + size % 2
    return None
