"""Runs the cells of a sweep one after the other, each as a separate training process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from etils import epath

from ssl_jax.core import storage
from ssl_jax.run import workdir_lock
from ssl_jax.sweeps.grid import Cell
from ssl_jax.sweeps.results import results_of

LOG = "log.txt"


def run(cells: Sequence[Cell], workdir: epath.Path) -> tuple[dict[str, int], int]:
    """Runs the unfinished cells and prints a line about each cell.

    Cells that another sweep of the folder is running are left to it. They count as failed if they
    are not finished at the end.

    Returns:
      (exit codes of failed cells by name, exit code of the sweep if a signal stopped it, else 0).
    """
    failed: dict[str, int] = {}
    elsewhere: list[Cell] = []
    with _SignalForwarder() as signals:
        for number, cell in enumerate(cells, 1):
            label = f"[{number}/{len(cells)}] {cell.name}"
            if results_of(cell, workdir) is not None:
                print(f"{label}: finished", flush=True)
                continue
            if workdir_lock.is_held(workdir / cell.name):
                print(f"{label}: runs in another process", flush=True)
                elsewhere.append(cell)
                continue
            print(f"{label}: runs", flush=True)
            try:
                code = _train(cell, workdir, signals)
            except OSError as error:  # the process cannot start, or the disk is full
                print(f"{label}: FAILED: {error}", flush=True)
                failed[cell.name] = 1
                continue
            # A cell that cannot save yet is killed by the signal.
            stopped = 128 + signals.received if signals.received else code
            if stopped in (130, 143):
                print("stopped; the same command continues", flush=True)
                return failed, stopped
            if not code:
                continue
            # Another process may have begun it while this one did, and may have finished it.
            held = workdir_lock.is_held(workdir / cell.name)
            if held or results_of(cell, workdir) is not None:
                print(f"{label}: {'runs' if held else 'was run'} in another process", flush=True)
                elsewhere.append(cell)
            else:
                print(f"{label}: FAILED with exit code {code}", flush=True)
                failed[cell.name] = code
    return failed | {cell.name: 1 for cell in elsewhere if results_of(cell, workdir) is None}, 0


class _SignalForwarder:
    """Forwards SIGTERM and SIGINT to the running cell.

    Attributes:
      received: the last signal, 0 before the first.
    """

    def __init__(self) -> None:
        self.received = 0
        self._process: subprocess.Popen | None = None

    def start(self, arguments: list[str]) -> subprocess.Popen:
        """Starts a cell. It also receives a signal that arrived while no cell was running."""
        # A new session, so that Ctrl-C reaches the cell only once, from here.
        self._process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        if self.received:
            self._process.send_signal(self.received)
        return self._process

    def _forward(self, number: int, frame: Any) -> None:
        del frame
        self.received = number
        if self._process is not None:
            self._process.send_signal(number)

    def __enter__(self) -> _SignalForwarder:
        signals = (signal.SIGTERM, signal.SIGINT)
        self._previous = {number: signal.signal(number, self._forward) for number in signals}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def _train(cell: Cell, workdir: epath.Path, signals: _SignalForwarder) -> int:
    """Runs the training command in a separate process, so cells cannot affect each other.

    What it prints is added to the log, which keeps all parts of an interrupted cell.

    Returns:
      The exit code; 128 + n if signal n killed the process.
    """
    folder = workdir / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [sys.executable, "-m", "ssl_jax", "train", *cell.flags, f"--workdir={folder}"]
    mode = "wb" if storage.is_object_store(folder) else "ab"  # objects cannot be appended to
    with signals.start(arguments) as process, (folder / LOG).open(mode) as log:
        for line in process.stdout:
            log.write(line)
            log.flush()
    code = process.wait()
    return code if code >= 0 else 128 - code
