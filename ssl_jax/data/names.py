"""Many strings in little memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


class Names(Sequence[str]):
    """An immutable list of strings as one block of bytes.

    A list of a million paths takes over 100 MB and seconds to send to every worker process; this
    takes its characters and 8 bytes a name.
    """

    def __init__(self, names: Iterable[str]):
        encoded = [os.fsencode(name) for name in names]  # file names need not be UTF-8
        self._bytes = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice | np.ndarray) -> Names: ...
    def __getitem__(self, at):
        if isinstance(at, np.ndarray):
            return Names(self[i] for i in at.tolist())
        if isinstance(at, slice):
            start, stop, step = at.indices(len(self))
            if step != 1:
                return Names(self[i] for i in range(start, stop, step))
            part = Names(())
            part._bytes, part._ends = self._bytes, self._ends[start : max(start, stop) + 1]
            return part
        at = range(len(self))[at]
        return os.fsdecode(self._bytes[self._ends[at] : self._ends[at + 1]])
