"""Starts one command as several JAX processes on this machine, over loopback.

    python launch/multiprocess_local.py --num_processes=2 -- ssl_jax train --config=...

Each process sees `--devices_per_process` virtual CPU devices and finds the others through
JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. Each line of output begins with the
number of its process. SIGTERM and SIGINT are passed on to all processes. The exit code is that of
the first process that failed (128 + n for signal n). The other processes are then stopped, so that
they do not wait for the failed one.
"""

from __future__ import annotations

import argparse
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

FAILURE_GRACE = 2.0  # seconds in which the others can report their own error before SIGTERM
TERM_GRACE = 3.0  # seconds between SIGTERM and SIGKILL
GLOO_CONNECTED = re.compile(rb"\[Gloo\] Rank \d+ is connected to \d+ peer ranks\..*\n")


def main() -> int:
    arguments = _parse_arguments()
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: signals.put(received))
    port = _free_port()
    if shutil.which(arguments.command[0]) is None:
        print(f"{arguments.command[0]}: command not found", file=sys.stderr)
        return 127
    processes = [
        subprocess.Popen(
            arguments.command,
            env=_environment(arguments, rank, port),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so Ctrl-C reaches them only through this process
        )
        for rank in range(arguments.num_processes)
    ]
    readers = [
        threading.Thread(target=_copy, args=(source, target, f"[{rank}] "), daemon=True)
        for rank, process in enumerate(processes)
        for source, target in (
            (process.stdout, sys.stdout.buffer),
            (process.stderr, sys.stderr.buffer),
        )
    ]
    for reader in readers:
        reader.start()
    try:
        code = _supervise(processes, signals, arguments.timeout, arguments.signal_grace)
    finally:
        _signal_all(processes, signal.SIGKILL)  # also the processes that they have started
    for reader in readers:
        reader.join(timeout=5)
    return code


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num_processes", type=int, default=2)
    parser.add_argument("--devices_per_process", type=int, default=1)
    parser.add_argument(
        "--heartbeat_seconds",
        type=int,
        default=10,
        help="silence after which a process counts as dead",
    )
    parser.add_argument(
        "--timeout", type=float, help="seconds until all are killed (exit code 124)"
    )
    parser.add_argument(
        "--signal_grace", type=float, default=120, help="seconds to save and exit after a signal"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- command ...")
    arguments = parser.parse_args()
    if arguments.command[:1] == ["--"]:
        arguments.command = arguments.command[1:]
    if not arguments.command:
        parser.error("no command given; write it after --")
    if arguments.num_processes < 1 or arguments.devices_per_process < 1:
        parser.error("--num_processes and --devices_per_process must be at least 1")
    return arguments


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _environment(arguments: argparse.Namespace, rank: int, port: int) -> dict[str, str]:
    flag = "--xla_force_host_platform_device_count"
    others = re.sub(rf"{flag}=\S+", "", os.environ.get("XLA_FLAGS", ""))
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{others} {flag}={arguments.devices_per_process}".strip(),
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(arguments.num_processes),
        "JAX_PROCESS_ID": str(rank),
        "SSL_JAX_HEARTBEAT_SECONDS": str(arguments.heartbeat_seconds),
        "PYTHONUNBUFFERED": "1",
    }


def _copy(source: IO[bytes], target: IO[bytes], prefix: str) -> None:
    """Copies whole lines, so that the lines of different processes do not mix.

    Omits the messages of Gloo, the library for collectives, about its connections, which it has no
    option to turn off.
    """
    for line in source:
        if GLOO_CONNECTED.fullmatch(line):
            continue
        target.write(prefix.encode() + line.rstrip(b"\n") + b"\n")
        target.flush()


def _supervise(
    processes: Sequence[subprocess.Popen],
    signals: queue.SimpleQueue[int],
    timeout: float | None,
    signal_grace: float,
) -> int:
    """Waits for all processes and passes signals on; returns the exit code of the first failure."""
    code = 0
    now = time.monotonic()
    give_up = now + timeout if timeout else float("inf")  # SIGKILL and 124
    terminate = kill = float("inf")
    signalled = False
    while any(process.poll() is None for process in processes):
        try:
            received = signals.get(timeout=0.05)
        except queue.Empty:
            received = None
        now = time.monotonic()
        if received is not None:
            _signal_all(processes, received)
            signalled = True
            kill = min(kill, now + signal_grace)
        if code == 0:
            code = next((_exit_code(p) for p in processes if p.poll()), 0)
            # After a signal all processes exit by themselves with non-zero codes.
            if code and not signalled:
                terminate = now + FAILURE_GRACE
        if now >= terminate:
            _signal_all(processes, signal.SIGTERM)
            terminate, kill = float("inf"), min(kill, now + TERM_GRACE)
        if now >= give_up:
            print(f"timeout: killing {len(processes)} processes", file=sys.stderr, flush=True)
            code, kill = 124, now
        if now >= kill:
            _signal_all(processes, signal.SIGKILL)
            for process in processes:
                process.wait()
    return code or next((_exit_code(p) for p in processes if p.returncode), 0)


def _exit_code(process: subprocess.Popen) -> int:
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _signal_all(processes: Sequence[subprocess.Popen], number: int) -> None:
    """Sends a signal to each process; SIGKILL to its whole group."""
    for process in processes:
        try:
            if number == signal.SIGKILL:
                os.killpg(process.pid, number)
            elif process.poll() is None:
                process.send_signal(number)
        except (ProcessLookupError, PermissionError):
            pass


if __name__ == "__main__":
    sys.exit(main())
