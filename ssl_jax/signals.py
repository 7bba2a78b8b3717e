"""SIGTERM and SIGINT as requests: finish the step, save, leave with the right exit code."""

from __future__ import annotations

import signal
import types
from typing import Any


class StopRequest:
    """While entered, the first SIGTERM or SIGINT only sets a flag; a second one acts as usual.

    Attributes:
      signum: the signal received, or None.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for signum in self._SIGNALS:
            self._previous[signum] = signal.signal(signum, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _receive(self, signum: int, frame: types.FrameType | None) -> None:
        del frame
        self.signum = signum
        signal.signal(signum, self._previous[signum])

    def __bool__(self) -> bool:
        return self.signum is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + (self.signum or signal.SIGTERM)
