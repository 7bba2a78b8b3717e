"""Keeps the memory of compilation small on machines of few cores.

XLA compiles a program for CPUs with two kinds of threads. One runs the passes over the program and
then translates each kernel to MLIR, in a context of its own of more than a MiB. As many threads as
there are cores take these to LLVM and free them. The latter have more to do. On one or two cores
they fall behind, and the contexts of nearly all kernels are in memory together: of the 750 MiB of
`simclr:fashion`, 340 were such contexts. If the first thread has a lower priority, it waits while
there are kernels to take, and few contexts exist. That also saves the time to make the others. The
programs are the same. On a machine that other programs keep busy it would wait for them too, so
there it is left alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import sys
import threading
from collections.abc import Iterator, Mapping

import jax

_NICER = 10  # by so much: a tenth of the weight
_BUSY, _WORKING = 0.1, 0.03  # processor seconds
_POLL = 0.05  # seconds
_TASKS = pathlib.Path("/proc/self/task")


@contextlib.contextmanager
def yielding(mesh: jax.sharding.Mesh) -> Iterator[None]:
    """Lowers the priority of the thread that compiles the programs of the block, for good.

    The thread does nothing but compile, so that no program runs slower. It is known as the oldest
    of XLA's threads that work; so no program may be running when the block begins. Devices other
    than CPUs, systems other than Linux and busy machines are left alone.

    Args:
      mesh: the devices that are compiled for.
    """
    if sys.platform != "linux" or mesh.devices.flat[0].platform != "cpu" or busy():
        yield
        return
    jax.jit(_nothing).lower().compile()
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(threads(), done), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def busy() -> bool:
    """Whether programs had to wait for a processor in the last minute, or this is not known."""
    try:
        return not _TASKS.is_dir() or os.getloadavg()[0] > (os.cpu_count() or 1)
    except OSError:
        return True


def _nothing() -> None:
    """A first program: threads that generate code start with it, at the usual priority."""


def _watch(before: Mapping[int, Thread], done: threading.Event) -> None:
    while not done.wait(_POLL):
        thread = compiling(before, threads())
        if thread is not None:
            lower_priority(thread)
            return


@dataclasses.dataclass(frozen=True)
class Thread:
    """A thread of this process.

    Attributes:
      started: ticks of the system's clock when it started.
      seconds: of a processor that it has used.
    """

    started: int
    seconds: float


def compiling(before: Mapping[int, Thread], now: Mapping[int, Thread]) -> int | None:
    """The thread that compiles, from two readings of `threads`; None: none has worked enough yet.

    The threads that generate code only start with the first program.
    """
    spent = {
        number: thread.seconds - (before[number].seconds if number in before else 0.0)
        for number, thread in now.items()
    }
    if max(spent.values(), default=0.0) < _BUSY:
        return None
    working = [number for number, seconds in spent.items() if seconds >= _WORKING]
    return min(working, key=lambda number: (now[number].started, number))


def threads() -> dict[int, Thread]:
    """The threads of this process that Python did not start, by their ids."""
    python = {thread.native_id for thread in threading.enumerate()}
    found = {}
    for task in _TASKS.iterdir():
        if int(task.name) not in python:
            with contextlib.suppress(OSError):  # it has just ended
                fields = (task / "stat").read_text().rpartition(")")[2].split()
                ticks = int(fields[11]) + int(fields[12])  # of the user, of the system
                found[int(task.name)] = Thread(int(fields[19]), ticks / os.sysconf("SC_CLK_TCK"))
    return found


def lower_priority(thread: int) -> None:
    """Makes a thread nicer than the process; does nothing if it is already, or has ended."""
    with contextlib.suppress(OSError):
        nice = min(19, os.getpriority(os.PRIO_PROCESS, 0) + _NICER)
        if os.getpriority(os.PRIO_PROCESS, thread) < nice:
            os.setpriority(os.PRIO_PROCESS, thread, nice)
