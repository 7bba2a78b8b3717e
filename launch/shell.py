"""Shell commands as data, so that a dry run prints exactly what a real run executes."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
from collections.abc import Callable

from ssl_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Command:
    """A command, perhaps one that reads another's output. `str` is what one would type.

    Attributes:
      arguments: the program first.
      source: the command whose output it reads.
      text: what it reads where there is no such command.
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
    """How a command ended."""

    code: int = 0
    out: str = ""
    err: str = ""


# Executes a command, or says what would come of it.
Execute = Callable[[Command], Result]


def execute(command: Command) -> Result:
    """Runs a command to its end and keeps what it writes.

    Raises:
      UserError: a program is not installed, or the source failed.
    """
    done = _run(command, capture=True)
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def show(command: Command) -> int:
    """Runs a command whose output goes to the terminal; its exit code.

    Raises:
      UserError: a program is not installed, or the source failed.
    """
    return _run(command, capture=False).returncode


def rehearse(answer: Callable[[Command], Result] = lambda command: Result()) -> Execute:
    """An `Execute` that prints commands, one a line, and runs nothing; `answer` plays the world."""

    def rehearsed(command: Command) -> Result:
        print(command, flush=True)
        return answer(command)

    return rehearsed


def _run(command: Command, *, capture: bool) -> subprocess.CompletedProcess[bytes]:
    given = command.text.encode() if command.text is not None else None
    if command.source:
        source = _subprocess(command.source, None, capture=True)
        if source.returncode:
            raise UserError(f"{shlex.join(command.source)}: {source.stderr.decode().strip()}")
        given = source.stdout
    return _subprocess(command.arguments, given, capture=capture)


def _subprocess(
    arguments: tuple[str, ...], given: bytes | None, *, capture: bool
) -> subprocess.CompletedProcess[bytes]:
    stdin = {"stdin": subprocess.DEVNULL} if given is None else {"input": given}
    try:
        return subprocess.run(arguments, capture_output=capture, check=False, **stdin)
    except FileNotFoundError:
        raise UserError(f"{arguments[0]} is not installed, or not on PATH") from None
