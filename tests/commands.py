"""Runs `ssl_jax COMMAND` as a user does, in a process of its own that need not import JAX again.

Importing what the commands need takes three seconds, longer than many commands take in a test.
`command_server.py` imports it once for a test session and then forks: each command runs in a fork
with its own environment, folder and file descriptors, as after `python -m ssl_jax COMMAND`. The
start of an interpreter is tested in tests/cli/test_app.py.
"""

from __future__ import annotations

import atexit
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping

from ssl_jax.run import metrics
from tests import command_client
from tests.xla_flags import QUICK

ROOT = pathlib.Path(__file__).parents[1]
TINY = (
    "--config=simclr:digits",
    "--config.model.widths=(4,8,8)",
    "--config.method.hidden_dim=16",
    "--config.method.output_dim=8",
    "--config.batch_size=64",
    "--config.steps=30",
    "--config.optimizer.warmup_epochs=0.1",
    "--config.eval.every_epochs=0",
    "--config.eval.baselines=()",
    "--config.eval.collapse_every_steps=10",
    "--config.eval.attentive.epochs=1",
    "--config.eval.attentive.min_steps=2",
    "--config.eval.names=('knn',)",
    "--config.eval.final_names=('knn',)",
    "--config.checkpoint.every_steps=8",
    "--config.log.every_steps=1",
    "--config.log.tensorboard=False",
    "--config.log.report=False",
)
# Read when JAX is imported or by the C library when a process starts: each server has its own.
_FIXED = (
    "GLIBC_TUNABLES",
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
)
_SERVER = pathlib.Path(__file__).with_name("command_server.py")
_servers: dict[tuple[str | None, ...], socket.socket] = {}


def environment(devices: int = 1, flags: str = QUICK) -> dict[str, str]:
    """The environment of a command on CPU devices, with XLA's flags for the compiler."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # less time for a language model
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {flags}",
    }


class Process:
    """A running command, with methods of `subprocess.Popen`.

    Attributes:
      pid: process id of the command.
      returncode: exit code, -n after signal n, None while it runs.
      cpu_seconds: CPU time that the command took, None while it runs.
    """

    def __init__(self, status: socket.socket, log: tempfile._TemporaryFileWrapper | None):
        self._log = log
        self._socket = status
        self._status = status.makefile("r")
        self.pid = int(self._status.readline())
        self.returncode: int | None = None
        self.cpu_seconds: float | None = None

    def poll(self) -> int | None:
        """The exit code, None while the command runs."""
        if self.returncode is None and select.select([self._socket], [], [], 0)[0]:
            code, seconds = self._status.readline().split()
            self.returncode, self.cpu_seconds = int(code), float(seconds)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the command; its exit code.

        Raises:
          subprocess.TimeoutExpired: it still runs after `timeout` seconds.
        """
        if self.poll() is None and not select.select([self._socket], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(["ssl_jax"], timeout)
        return self.poll()

    def send_signal(self, signum: int) -> None:
        """Sends a signal; does nothing if the command has ended."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def output(self) -> str:
        """What the command has written so far, stdout and stderr together."""
        return pathlib.Path(self._log.name).read_text()


def launch(
    *arguments: str,
    environment: Mapping[str, str],
    cwd: pathlib.Path = ROOT,
    stdout: int | None = None,
    stderr: int | None = None,
) -> Process:
    """Starts `ssl_jax ARGUMENTS`.

    Args:
      arguments: the command and its options.
      environment: all environment variables.
      cwd: the working directory.
      stdout: a file descriptor; by default a temporary file that `Process.output` reads.
      stderr: a file descriptor; by default that of stdout.
    """
    log = tempfile.NamedTemporaryFile() if stdout is None else None  # noqa: SIM115
    stdout = log.fileno() if stdout is None else stdout
    server = connection(environment)
    with open(os.devnull, "rb") as stdin:
        descriptors = (stdin.fileno(), stdout, stdout if stderr is None else stderr)
        status = command_client.request(server, arguments, dict(environment), str(cwd), descriptors)
    return Process(status, log)


def connection(environment: Mapping[str, str]) -> socket.socket:
    """The connection to the server with the fixed part of this environment."""
    fixed = tuple(environment.get(name) for name in _FIXED)
    if fixed not in _servers:
        here, end = socket.socketpair()
        with end:
            subprocess.Popen(
                [sys.executable, str(_SERVER), str(end.fileno())], pass_fds=[end.fileno()],
                env=dict(environment), cwd=ROOT, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        atexit.register(here.close)  # the server ends with it
        _servers[fixed] = here
    return _servers[fixed]


def finish(
    *arguments: str, environment: Mapping[str, str], timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Runs `ssl_jax ARGUMENTS` to its end; exit code, stdout and stderr."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = launch(
            *arguments, environment=environment, stdout=out.fileno(), stderr=err.fileno()
        )
        try:
            process.wait(timeout)
        finally:
            process.kill()
        out.seek(0)
        err.seek(0)
        command = ["ssl_jax", *arguments]
        return subprocess.CompletedProcess(command, process.returncode, out.read(), err.read())


def run(
    workdir: os.PathLike[str] | str,
    *arguments: str,
    module: str = "train",
    devices: int = 1,
    flags: str = QUICK,
    check: bool = True,
    timeout: float = 240,
) -> subprocess.CompletedProcess[str]:
    """Runs a command on a workdir to its end; with `check` it has to succeed."""
    done = finish(
        module, f"--workdir={workdir}", *arguments, environment=environment(devices, flags),
        timeout=timeout,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def start(
    workdir: os.PathLike[str] | str,
    *arguments: str,
    module: str = "train",
    devices: int = 1,
    flags: str = QUICK,
) -> Process:
    """Starts a command on a workdir."""
    return launch(
        module, f"--workdir={workdir}", *arguments, environment=environment(devices, flags)
    )


def wait_for_step(
    process: Process, workdir: os.PathLike[str] | str, step: int, timeout: float = 120
) -> None:
    """Returns once the run in `workdir` has logged `step`."""
    path = pathlib.Path(workdir) / "metrics.jsonl"
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if path.exists() and f'"step": {step},' in path.read_text():
            return
        assert process.poll() is None, process.output()
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached in {timeout} s")


def losses(workdir: os.PathLike[str] | str) -> dict[int, float]:
    """Step -> logged loss."""
    rows = metrics.read_metrics(workdir)
    return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
