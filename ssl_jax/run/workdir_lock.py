"""Lets one run at a time write to a workdir.

On a file system the run holds a lock of the operating system (`lockf`) on `<workdir>/lock.json`.
The system releases it when the process ends, also after `kill -9`. Child processes do not inherit
it.

Object stores such as gs:// have no locks. There, and on file systems without them, `lock.json` is a
lease: the run rewrites it every `HEARTBEAT_SECONDS`. A start that finds a lease watches it and
takes it over if it has not changed for `STALE_SECONDS`. It compares no clocks of different
machines.

`lock.json` names the holder: {"host", "pid", "since", ...}. A run that ends in order removes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import socket
import struct
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import IO, Any

from etils import epath

from ssl_jax import parallel
from ssl_jax.core.errors import RunError, UserError
from ssl_jax.core.storage import is_object_store

FILENAME = "lock.json"
HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 60.0
SETTLE_SECONDS = 2.0  # between writing a lease and reading it back: of two starts the later wins
_POLL_SECONDS = 1.0
_FLOCK = "hhqqi4x"  # Linux's struct flock: type, whence, start, length, process


class InUseError(UserError):
    """Another process writes to the workdir."""


def acquire(workdir: epath.Path) -> OsLock | Lease:
    """Takes the lock of a workdir, which is made if it is missing.

    Every process of a run calls it. The first takes the lock, and the others follow its answer.

    Raises:
      InUseError: another run holds it; the message names host, process and start.
      UserError: the workdir cannot be written.
    """
    lock, refusal = None, ""
    if parallel.is_first_process():
        try:
            lock = _acquire(workdir)
        except InUseError as error:
            refusal = str(error)
        except OSError as error:
            refusal = f"--workdir={workdir} cannot be written: {error}"
    refusal = parallel.text_from_first_process(refusal)
    if refusal:
        raise InUseError(refusal)
    return lock or _Follower()


def is_held(workdir: epath.Path) -> bool:
    """Whether another process holds the lock of a workdir; leases are not looked at.

    The lock is asked for, not taken: else a run that starts meanwhile would be refused. Only Linux
    can be asked like that; elsewhere the answer is False.
    """
    path = os.path.realpath(workdir / FILENAME)
    # A process that closes the file gives its own lock of it away.
    if sys.platform != "linux" or path in _of_this_process:
        return False
    try:
        with open(path, encoding="utf-8") as file:
            question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            answer = fcntl.fcntl(file, fcntl.F_GETLK, question)
    except OSError:
        return False
    return struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK


def _acquire(workdir: epath.Path) -> OsLock | Lease:
    workdir.mkdir(parents=True, exist_ok=True)
    if not is_object_store(workdir):
        with contextlib.suppress(_NoLocksError):
            return OsLock.acquire(workdir)
    return Lease.acquire(workdir)


class _NoLocksError(OSError):
    """The file system knows no locks."""


class _Follower:
    """What the other processes of a run hold."""

    def check(self) -> None:
        """The first process checks."""

    def release(self) -> None:
        """The first process releases."""


@dataclasses.dataclass
class OsLock:
    """A lock of the operating system; see `acquire`.

    Locks of one process do not exclude each other, so all of a process share one per workdir.
    """

    workdir: epath.Path
    file: IO[str]
    holders: int = 1

    @classmethod
    def acquire(cls, workdir: epath.Path) -> OsLock:
        """Raises InUseError, _NoLocksError, and OSError if the file cannot be written."""
        path = os.path.realpath(workdir / FILENAME)
        if (own := _of_this_process.get(path)) is not None and own.is_intact():
            own.holders += 1
            return own
        while True:
            file = open(path, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                file.seek(0)
                with file:
                    raise InUseError(_in_use(workdir, file.read())) from None
            except OSError as error:
                file.close()
                raise _NoLocksError from error
            lock = cls(workdir, file)
            if lock.is_intact():
                break
            file.close()  # a run that ended has removed it since
        file.truncate(0)
        file.write(json.dumps(_identity()) + "\n")
        file.flush()
        _of_this_process[path] = lock
        return lock

    def is_intact(self) -> bool:
        """Whether the file of the lock is still the one in the workdir."""
        try:
            return os.path.samestat(os.fstat(self.file.fileno()), os.stat(self.workdir / FILENAME))
        except OSError:
            return False

    def check(self) -> None:
        """Raises RunError if the workdir has been deleted or moved."""
        if not self.is_intact():
            raise RunError(
                f"{self.workdir} was deleted or moved while this run was writing to it; start it "
                "again, or from where it was moved to"
            )

    def release(self) -> None:
        self.holders -= 1
        if self.holders:
            return
        path = os.path.realpath(self.workdir / FILENAME)
        _of_this_process.pop(path, None)
        with self.file, contextlib.suppress(OSError):
            if self.is_intact():
                os.unlink(path)  # before the lock is released


_of_this_process: dict[str, OsLock] = {}


class Lease:
    """A lease that a thread renews; see the module.

    Args:
      workdir: where its file is.
      clock: seconds, monotonic.
      sleep: waits so many seconds.
    """

    def __init__(
        self,
        workdir: epath.Path,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._path = workdir / FILENAME
        self._workdir, self._clock, self._sleep = workdir, clock, sleep
        self._identity = {**_identity(), "token": uuid.uuid4().hex}
        self._beats = itertools.count()
        self._lost = ""
        self._ended = threading.Event()

    @classmethod
    def acquire(cls, workdir: epath.Path) -> Lease:
        """A lease that is renewed until it is released.

        Raises:
          InUseError: another process renews one.
        """
        lease = cls(workdir)
        lease.take()
        threading.Thread(target=lease._renew_until_released, name="lease", daemon=True).start()
        return lease

    def take(self) -> None:
        """Writes the lease, once no other process has renewed one for `STALE_SECONDS`.

        Raises:
          InUseError: another process renews it, or has started at the same moment.
        """
        first = self._read()
        since = self._clock()
        if first:
            holder = _in_use(self._workdir, first).partition(";")[0]
            print(f"{holder}, or was: looks for up to {STALE_SECONDS:.0f} s whether it still runs",
                  flush=True)  # fmt: skip
        while first and self._clock() - since < STALE_SECONDS:
            self._sleep(_POLL_SECONDS)
            now = self._read()
            if now and now != first:
                raise InUseError(_in_use(self._workdir, now))
            first = now
        self._write()
        self._sleep(SETTLE_SECONDS)
        now = self._read()
        if _token(now) != self._identity["token"]:
            raise InUseError(_in_use(self._workdir, now))

    def renew(self) -> None:
        """Rewrites the lease, unless another process has taken it or the workdir is gone."""
        now = self._read()
        if not now:
            self._lost = f"{self._workdir} was deleted while this run was writing to it"
        elif _token(now) != self._identity["token"]:
            self._lost = _in_use(self._workdir, now)
        else:
            self._write()

    def check(self) -> None:
        """Raises RunError if another process has taken the lease, or the workdir was deleted."""
        if self._lost:
            raise RunError(self._lost)

    def release(self) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            if _token(self._read()) == self._identity["token"]:
                self._path.unlink()

    def _renew_until_released(self) -> None:
        while not self._lost and not self._ended.wait(HEARTBEAT_SECONDS):
            # A store that does not answer now may do so at the next heartbeat.
            with contextlib.suppress(Exception):
                self.renew()

    def _read(self) -> str:
        try:
            return self._path.read_text()
        except FileNotFoundError:
            return ""

    def _write(self) -> None:
        self._path.write_text(json.dumps({**self._identity, "beat": next(self._beats)}) + "\n")


def _identity() -> dict[str, Any]:
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since}


def _fields(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _token(text: str) -> str | None:
    return _fields(text).get("token")


def _in_use(workdir: epath.Path, text: str) -> str:
    holder = _fields(text)
    who = "another process"
    if "pid" in holder:
        who = "process {pid} on {host} since {since}".format_map(
            {name: holder.get(name, "?") for name in ("pid", "host", "since")}
        )
    return (
        f"{workdir} is in use by {who}; wait until that run has ended, or choose another --workdir"
    )
