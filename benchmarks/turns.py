"""Runs the sides of a comparison alternately, each in a separate process.

A ratio between two calls of one round holds when the machine's speed drifts between rounds; sides
in one process would share memory, threads and caches.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

Round = dict[str, float]  # side -> seconds


class Side:
    """A process that makes a call for every line that it receives.

    Args:
      command: arguments of Python; the program has to call `serve`.
      warm_up: number of uncounted calls at the start, which compile and allocate memory.
    """

    def __init__(self, command: Sequence[str], *, warm_up: int = 2):
        self._process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.value = 0.0  # the result of the last call
        for _ in range(warm_up):
            self.call()

    def call(self) -> float:
        """Seconds of one call."""
        self._process.stdin.write(b"call\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{' '.join(self._process.args)} has ended; why stands above")
        seconds, self.value = json.loads(answer)
        return seconds

    def end(self) -> None:
        """Ends the process, which frees its memory."""
        self._process.stdin.close()
        self._process.wait()


def rounds(sides: dict[str, Side], count: int) -> list[Round]:
    """The seconds of every side in each of `count` rounds."""
    return [{name: side.call() for name, side in sides.items()} for _ in range(count)]


def serve(call: Callable[[], float]) -> None:
    """Answers every line of stdin with the seconds and the result of a call."""
    for _ in sys.stdin:
        began = time.perf_counter()
        value = call()
        print(json.dumps([time.perf_counter() - began, value]), flush=True)
