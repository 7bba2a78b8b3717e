"""Bash scripts that run on the workers of a TPU VM, and the parsing of their output.

A run has a folder `~/ssl_jax/NAME` on every worker: the code of its commit with the link `current`
to it, the virtual environment, and the files of `launch/supervise.py`.
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
    """What a run executes.

    Attributes:
      name: of its folder on the workers.
      commit: its code.
      config: of the training command.
      workdir: a gs:// path.
      extra: more arguments of the training command.
      mounts: buckets to mount, BUCKET:/PATH each.
      max_restarts: in a row, by the supervisor.
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
        """Where the code is kept: beside the results it made."""
        return f"{self.workdir.rstrip('/')}/code/{self.commit.short}.tar.gz"

    def upload(self) -> Command:
        """Puts the code into the bucket."""
        return Command(
            ("gcloud", "storage", "cp", "-", self.archive, "--quiet"),
            source=self.commit.archive_command(),
        )

    def start_script(self) -> str:
        """Fetches the code, sets the worker up and starts the supervisor, as far as not done."""
        code = self.commit.short
        setup = ["bash", "launch/setup_host.sh", "--venv=../.venv", "--extras=tpu,gcs"]
        setup += [f"--mount={mount}" for mount in self.mounts]
        supervise = ["../.venv/bin/python", "launch/supervise.py", "start", "--dir=.."]
        supervise += [f"--commit={code}", f"--max_restarts={self.max_restarts}", "--"]
        supervise += ["../.venv/bin/python", "-m", "ssl_jax", "train"]
        supervise += [f"--config={self.config}", f"--workdir={self.workdir}", *self.extra]
        # In a folder of its own until it is whole, in case this is done twice at a time.
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
    """Makes a worker answer one line for `read_statuses`, whatever state it is in."""
    supervise = "python3 current/launch/supervise.py status --dir=."
    absent = f"echo {shlex.quote(MARK + json.dumps({'state': 'absent', 'exit_codes': []}))}"
    return f"cd ~/{folder(name)} 2>/dev/null && {supervise} || {absent}"


def stop_script(name: str) -> str:
    """Stops the training process, which saves, and its supervisor."""
    return f"cd ~/{folder(name)} && python3 current/launch/supervise.py stop --dir=."


def logs_script(name: str, *, lines: int, follow: bool) -> str:
    """Shows the end of the training process's output."""
    flag = " -F" if follow else ""
    return f"tail -n {lines}{flag} ~/{folder(name)}/train.log"


def read_statuses(output: str) -> list[dict[str, Any]]:
    """The answers among what the workers wrote, by host name."""
    found = []
    for line in output.splitlines():
        _, mark, text = line.partition(MARK)
        if mark:
            found.append(json.loads(text))
    return sorted(found, key=lambda one: _natural(one.get("host", "")))


def _natural(host: str) -> tuple[str, int]:
    """Workers are named ...-w-0, ...-w-1, ..., ...-w-10."""
    stem, _, number = host.rpartition("-")
    return (stem, int(number)) if number.isdecimal() else (host, 0)
