"""Bash scripts that run on the workers of a TPU VM, and the parsing of their output.

A run has a folder `~/ssl_jax/NAME` on every worker. It holds the code of the commit with the link
`current` to it, the virtual environment, and the files of `launch/supervise.py`.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import Any

from launch.commit import Commit
from launch.shell import Command
from launch.supervise import MARK


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """The training command of a run and its code.

    Attributes:
      name: name of the run's folder on the workers.
      commit: the commit of the code.
      config: --config of the training command.
      workdir: --workdir of the training command, a gs:// path.
      extra: additional arguments of the training command.
      mounts: buckets to mount, BUCKET:/PATH each.
      max_restarts: consecutive restarts by the supervisor.
    """

    name: str
    commit: Commit
    config: str
    workdir: str
    extra: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    max_restarts: int = 10

    @property
    def archive(self) -> str:
        """Path of the code archive, in the workdir with the results."""
        return f"{self.workdir.rstrip('/')}/code/{self.commit.short}.tar.gz"

    def upload(self) -> Command:
        """Uploads the code archive to the bucket."""
        return Command(
            ("gcloud", "storage", "cp", "-", self.archive, "--quiet"),
            source=self.commit.archive_command(),
        )

    def start_script(self) -> str:
        """Fetches the code, sets up the worker and starts the supervisor; skips finished steps."""
        code = self.commit.short
        setup = ["bash", "launch/setup_host.sh", "--venv=../.venv", "--extras=tpu,gcs"]
        setup += [f"--mount={mount}" for mount in self.mounts]
        supervise = ["../.venv/bin/python", "launch/supervise.py", "start", "--dir=.."]
        supervise += [f"--commit={code}", f"--max_restarts={self.max_restarts}", "--"]
        supervise += ["../.venv/bin/python", "-m", "ssl_jax", "train"]
        supervise += [f"--config={self.config}", f"--workdir={self.workdir}", *self.extra]
        # Extract into a temporary folder first, in case two of these scripts run at the same time.
        fetch = (
            f"mkdir part.$$ && gcloud storage cat {shlex.quote(self.archive)} "
            f"| tar -xz -C part.$$ && {{ mv -T part.$$ {code} || rm -rf part.$$; }}"
        )
        return "; ".join(
            (
                "set -euo pipefail",
                f"mkdir -p ~/{folder(self.name)}",
                f"cd ~/{folder(self.name)}",
                f"if [ ! -d {code} ]; then {fetch}; fi",
                f"ln -sfn {code} current",
                f"cd {code}",
                shlex.join(setup),
                shlex.join(supervise),
            )
        )


def folder(name: str) -> str:
    """The run's folder on a worker, from the home directory."""
    return f"ssl_jax/{name}"


def status_script(name: str) -> str:
    """Prints one line for `read_statuses`, whatever state the worker is in."""
    supervise = "python3 current/launch/supervise.py status --dir=."
    absent = f"echo {shlex.quote(MARK + json.dumps({'state': 'absent', 'exit_codes': []}))}"
    return f"cd ~/{folder(name)} 2>/dev/null && {supervise} || {absent}"


def stop_script(name: str) -> str:
    """Stops the training process, which saves a checkpoint, and its supervisor."""
    return f"cd ~/{folder(name)} && python3 current/launch/supervise.py stop --dir=."


def logs_script(name: str, *, lines: int, follow: bool) -> str:
    """Shows the end of the training process's output."""
    flag = " -F" if follow else ""
    return f"tail -n {lines}{flag} ~/{folder(name)}/train.log"


def read_statuses(output: str) -> list[dict[str, Any]]:
    """The statuses in the workers' output, sorted by worker number."""
    statuses = []
    for line in output.splitlines():
        _, mark, text = line.partition(MARK)
        if mark:
            statuses.append(json.loads(text))
    return sorted(statuses, key=lambda status: _host_sort_key(status.get("host", "")))


def _host_sort_key(host: str) -> tuple[str, int]:
    """Sorts hosts by number: they are named ...-w-0, ...-w-1, ..., ...-w-10."""
    stem, _, number = host.rpartition("-")
    return (stem, int(number)) if number.isdecimal() else (host, 0)
