"""Shell commands as data, so that a dry run prints exactly what a real run executes."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
from collections.abc import Callable

from ssl_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Command:
    """A command, optionally with another command's output as input. `str` gives the shell line.

    Attributes:
      arguments: the program and its arguments.
      source: the command whose output is the standard input.
      text: the standard input if there is no `source`.
    """

    arguments: tuple[str, ...]
    source: tuple[str, ...] = ()
    text: str | None = None

    def __str__(self) -> str:
        line = shlex.join(self.arguments)
        if self.source:
            line = f"{shlex.join(self.source)} | {line}"
        if self.text is not None:
            line = f"{line} <<'END'\n{self.text}END"
        return line


@dataclasses.dataclass(frozen=True)
class Result:
    """Exit code and output of a command."""

    code: int = 0
    out: str = ""
    err: str = ""


# Executes a command, or in a dry run returns an assumed result.
Execute = Callable[[Command], Result]


def execute(command: Command) -> Result:
    """Runs a command to its end and captures its output.

    Raises:
      UserError: a program is not installed, or the source failed.
    """
    process = _run(command, capture=True)
    return Result(process.returncode, process.stdout.decode(), process.stderr.decode())


def show(command: Command) -> int:
    """Runs a command whose output goes to the terminal; returns its exit code.

    Raises:
      UserError: a program is not installed, or the source failed.
    """
    return _run(command, capture=False).returncode


def rehearse(answer: Callable[[Command], Result] = lambda command: Result()) -> Execute:
    """An `Execute` for dry runs: prints each command on a line and executes nothing.

    Args:
      answer: returns the assumed result of a command.
    """

    def rehearsed(command: Command) -> Result:
        print(command, flush=True)
        return answer(command)

    return rehearsed


def _run(command: Command, *, capture: bool) -> subprocess.CompletedProcess[bytes]:
    stdin = command.text.encode() if command.text is not None else None
    if command.source:
        source = _subprocess(command.source, None, capture=True)
        if source.returncode:
            raise UserError(f"{shlex.join(command.source)}: {source.stderr.decode().strip()}")
        stdin = source.stdout
    return _subprocess(command.arguments, stdin, capture=capture)


def _subprocess(
    arguments: tuple[str, ...], stdin: bytes | None, *, capture: bool
) -> subprocess.CompletedProcess[bytes]:
    source = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    try:
        return subprocess.run(arguments, capture_output=capture, check=False, **source)
    except FileNotFoundError:
        raise UserError(f"{arguments[0]} is not installed, or not on PATH") from None
