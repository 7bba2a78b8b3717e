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
    """A process that makes a call for every line it is sent.

    Args:
      command: of Python: what runs `serve`.
      warm_up: calls that are made now and not counted: to compile, and to take memory.
    """

    def __init__(self, command: Sequence[str], *, warm_up: int = 2):
        self._process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.value = 0.0  # what the last call returned
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
        """Lets the process go, and its memory with it."""
        self._process.stdin.close()
        self._process.wait()


def rounds(sides: dict[str, Side], count: int) -> list[Round]:
    """The seconds of every side in each of `count` rounds."""
    return [{name: side.call() for name, side in sides.items()} for _ in range(count)]


def serve(call: Callable[[], float]) -> None:
    """Answers every line of stdin with the seconds of a call and what it returns."""
    for _ in sys.stdin:
        began = time.perf_counter()
        value = call()
        print(json.dumps([time.perf_counter() - began, value]), flush=True)
