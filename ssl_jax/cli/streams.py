"""Standard streams that cannot end a command.

A terminal may be closed, a reader such as `head -1` may end, and the disk of a log file may be
full. A run goes on then and keeps its metrics in its workdir.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TextIO


def open_missing() -> None:
    """Opens /dev/null as the standard streams that are closed; call it before opening files.

    Otherwise the next files that are opened, such as metrics, would become the standard streams.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def tolerate_lost_output(*, full_disks: bool) -> None:
    """Lets writes to standard output and standard error succeed although nobody can read them.

    Args:
      full_disks: also if the disk of a log file is full, or cannot be written for another reason.
        False: only if the reader has ended.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__"):  # nothing has replaced it
            setattr(sys, name, _tolerant(stream, full_disks))


def _tolerant(stream: TextIO, full_disks: bool) -> TextIO:
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(stream.fileno(), full_disks)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Output(io.RawIOBase):
    """A file descriptor, the errors of which are ignored."""

    def __init__(self, descriptor: int, full_disks: bool):
        self._descriptor, self._full_disks = descriptor, full_disks

    def write(self, data: memoryview) -> int:
        try:
            return os.write(self._descriptor, data)
        except OSError as error:
            if error.errno == errno.EPIPE or self._full_disks:
                return len(data)
            self._full_disks = True  # one error is enough, also when Python flushes at its end
            raise

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)
