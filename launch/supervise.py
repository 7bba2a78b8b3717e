"""Keeps one training process running on one worker; uses only Python's standard library.

    python supervise.py start --dir=DIR [--commit=SHA] -- ssl_jax train --config=...
    python supervise.py status --dir=DIR
    python supervise.py stop --dir=DIR

`start` starts a supervisor in the background, which outlives the SSH session, and returns at once.
If a supervisor with the same command is alive, it does nothing. The exit code of the training
process decides what follows:

| exit code | meaning | result |
|---|---|---|
| 0 | finished | `finished` |
| 143 | SIGTERM, saved: preemption, maintenance | restarted |
| 128 + n | killed by signal n: no memory (137), a lost peer or device (134, 139) | restarted |
| 130 | Ctrl-C: stopped by hand | `failed` |
| 1, 2, any other below 128 | an error that would occur again | `failed` |

A restarted command continues from the last checkpoint. The state is also `failed` after
`--max_restarts` consecutive restarts, none of which ran for half an hour. After SIGTERM the
supervisor makes no more restarts. It does not pass the signal on, because a machine that shuts down
signals the training process as well, and a second SIGTERM would end it before it has saved. `stop`
sends SIGTERM to both processes and waits.

DIR holds `state.json`, `train.log`, and the lock that shows whether a supervisor is alive. `status`
prints one line, `SUPERVISED {"state": ..., "exit_codes": [...], "last_line": ..., ...}`. States are
`absent`, `running`, `waiting` (for the next restart), `finished`, `failed`, `stopped` (by `stop`),
`terminated` (by SIGTERM), and `lost`: the supervisor died without recording another state.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import IO, Any

MARK = "SUPERVISED "
HEALTHY_SECONDS = 1800.0  # uptime after which the count of consecutive restarts is reset
LONGEST_DELAY = 300.0  # seconds before a restart
STOP_REQUEST = "stop"  # file that tells a `stop` from a SIGTERM by the machine
OTHER_COMMAND = 3  # exit code of `start` if another command is running

_PR_SET_PDEATHSIG = 1


def main() -> int:
    arguments = _parse_arguments()
    directory = pathlib.Path(arguments.dir).absolute()
    if arguments.action == "start":
        return start(directory, arguments)
    if arguments.action == "watch":
        return Supervisor(directory, arguments).watch()
    if arguments.action == "stop":
        return stop(directory, arguments.grace)
    print(MARK + json.dumps(status(directory)), flush=True)
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("start", "status", "stop", "watch"))
    parser.add_argument("--dir", required=True, help="folder of the run on this machine")
    parser.add_argument("--commit", default="", help="commit of the code; shown by status")
    parser.add_argument("--max_restarts", type=int, default=10)
    parser.add_argument("--delay", type=float, default=10, help="seconds before the first restart")
    parser.add_argument(
        "--grace", type=float, default=600, help="seconds that stop waits for the checkpoint"
    )
    own, separator, command = _split(sys.argv[1:])
    arguments = parser.parse_args(own)
    arguments.command = command
    if arguments.action in ("start", "watch") and not (separator and command):
        parser.error("no command given; write it after --")
    return arguments


def _split(argv: list[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in argv:
        return argv, False, []
    end = argv.index("--")
    return argv[:end], True, argv[end + 1 :]


def may_restart(code: int) -> bool:
    """Whether a process with this exit code is restarted, see the table of the module."""
    return 128 < code <= 128 + 64 and code != 128 + signal.SIGINT


def start(directory: pathlib.Path, arguments: argparse.Namespace) -> int:
    """Starts a supervisor in the background.

    Returns:
      The exit code: `OTHER_COMMAND` if a supervisor for another command is alive, else 0.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = _lock(directory, seconds=0.3)
    if lock is None:
        state = _read(directory)
        if (state.get("command"), state.get("commit")) == (arguments.command, arguments.commit):
            print(f"already {state['state']}")
            return 0
        print(
            f"error: {os.uname().nodename} runs another command, commit {state.get('commit')!r}: "
            f"{' '.join(state.get('command', []))}",
            file=sys.stderr,
        )
        return OTHER_COMMAND
    (directory / STOP_REQUEST).unlink(missing_ok=True)
    _write(directory, _first_state(arguments))
    # The supervisor inherits the open file and with it the lock, until it ends.
    with (directory / "supervisor.log").open("ab") as log:
        subprocess.Popen(
            [
                *(sys.executable, os.path.abspath(__file__), "watch", f"--dir={directory}"),
                *(f"--commit={arguments.commit}", f"--max_restarts={arguments.max_restarts}"),
                *(f"--delay={arguments.delay}", "--", *arguments.command),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[lock.fileno()],
        )
    lock.close()
    print("started")
    return 0


def _first_state(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "state": "running",
        "host": os.uname().nodename,
        "commit": arguments.commit,
        "command": arguments.command,
        "exit_codes": [],
        "restarts": 0,
    }


class Supervisor:
    """Runs and restarts the training process; holds the lock."""

    def __init__(self, directory: pathlib.Path, arguments: argparse.Namespace):
        self.directory = directory
        self.arguments = arguments
        self.state = {**_first_state(arguments), "supervisor": os.getpid()}
        self.stopping = False

    def watch(self) -> int:
        """Runs the command until it finishes, fails or is stopped; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._no_more_restarts)
        in_a_row = 0
        while True:
            started = time.monotonic()
            code = self._run_once()
            self.state["exit_codes"] = [*self.state["exit_codes"], code][-50:]
            if time.monotonic() - started > HEALTHY_SECONDS:
                in_a_row = 0
            if code == 0:
                return self._end("finished")
            if self.stopping:
                return self._end_early()
            if not may_restart(code) or in_a_row >= self.arguments.max_restarts:
                return self._end("failed")
            self._update("waiting")
            self._wait(min(self.arguments.delay * 2**in_a_row, LONGEST_DELAY))
            if self.stopping:
                return self._end_early()
            in_a_row += 1
            self.state["restarts"] += 1

    def _run_once(self) -> int:
        """Runs the command to its end; returns its exit code, 128 + n after signal n."""
        with (self.directory / "train.log").open("ab") as log:
            try:
                process = subprocess.Popen(
                    self.arguments.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_die_with_parent,
                )
            except OSError as error:
                log.write(f"error: {error}\n".encode())
                return 127
            self.state["pid"] = process.pid
            self._update("running")
            code = process.wait()
            del self.state["pid"]
        return code if code >= 0 else 128 - code

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self.stopping and time.monotonic() < end:
            time.sleep(min(0.5, seconds))

    def _no_more_restarts(self, number: int, frame: Any) -> None:
        del number, frame
        self.stopping = True

    def _update(self, name: str) -> None:
        self.state["state"] = name
        _write(self.directory, self.state)

    def _end_early(self) -> int:
        return self._end("stopped" if (self.directory / STOP_REQUEST).exists() else "terminated")

    def _end(self, name: str) -> int:
        self._update(name)
        return 0 if name == "finished" else 1


def _die_with_parent() -> None:
    """Sends SIGTERM to this process when the supervisor dies, so it never runs alone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def stop(directory: pathlib.Path, grace: float) -> int:
    """Stops the training process and its supervisor, with SIGKILL after `grace` seconds."""
    if not _alive(directory):
        print("nothing is running")
        return 0
    (directory / STOP_REQUEST).touch()
    end = time.monotonic() + grace
    signalled = set()
    while _alive(directory):
        state = _read(directory)
        for name in ("supervisor", "pid"):  # the supervisor first: it would restart the process
            if state.get(name) and state[name] not in signalled:
                signalled.add(state[name])
                _kill(state[name], signal.SIGTERM)
        if time.monotonic() > end:
            _kill(state.get("pid"), signal.SIGKILL)
        time.sleep(0.1)
    print(_read(directory).get("state"))
    return 0


def _kill(pid: int | None, number: int) -> None:
    if pid is not None and pid > 1:  # 0 and -1 would signal groups of processes
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def status(directory: pathlib.Path) -> dict[str, Any]:
    """The content of state.json and the last line of train.log."""
    state = _read(directory)
    if not state:
        return {"state": "absent", "host": os.uname().nodename, "exit_codes": [], "restarts": 0}
    if state["state"] in ("running", "waiting") and not _alive(directory):
        state["state"] = "lost"
    return {**state, "last_line": _last_line(directory / "train.log")}


def _last_line(path: pathlib.Path) -> str:
    """The last line that is not empty; for a progress bar, its current text."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _lock(directory: pathlib.Path, *, seconds: float) -> IO[bytes] | None:
    """Takes the supervisor's lock; None if another supervisor holds it.

    It retries for `seconds`, because `_alive` holds the lock for a moment.
    """
    file = (directory / "lock").open("ab")
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError:
            if time.monotonic() > end:
                file.close()
                return None
            time.sleep(0.05)


def _alive(directory: pathlib.Path) -> bool:
    """Whether a supervisor holds the lock."""
    try:
        with (directory / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _read(directory: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads((directory / "state.json").read_text())
    except FileNotFoundError:
        return {}


def _write(directory: pathlib.Path, state: dict[str, Any]) -> None:
    temporary = directory / f"state.json.{os.getpid()}"
    temporary.write_text(json.dumps(state))
    os.replace(temporary, directory / "state.json")


if __name__ == "__main__":
    sys.exit(main())
