"""The entry point of all commands: their flags, one-line errors and exit codes.

A command is a module of this package with `define_flags()`, `main() -> exit code`, and a docstring
whose first line says what it is for.
"""

from __future__ import annotations

import ast
import importlib
import logging
import pathlib
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict

import ssl_jax
from ssl_jax import config as config_lib
from ssl_jax import parallel
from ssl_jax.cli import streams
from ssl_jax.core.errors import RunError, UserError, nearest

# In the order in which --help lists them.
COMMANDS = (
    "train", "evaluate", "select", "embed", "generate", "traverse", "interpolate", "export",
    "sweep", "aot", "prepare_text", "list",
)  # fmt: skip
TAKES_ARGUMENTS = {"list"}
_HELP = ("--help", "-h", "-help", "--helpshort", "--helpfull", "help")


def main() -> None:
    """Runs the command that the first argument names."""
    streams.open_missing()
    streams.tolerate_lost_output(full_disks=sys.argv[1:2] in (["train"], ["sweep"]))
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in _HELP:
        print(overview())
        return
    if name == "--version":
        print(ssl_jax.__version__)
        return
    if name not in COMMANDS:
        _stop(
            f"unknown command {name!r}; commands: {', '.join(COMMANDS)}.{nearest(name, COMMANDS)}"
        )
    sys.argv = [f"{sys.argv[0]} {name}", *sys.argv[2:]]
    command = importlib.import_module(f"ssl_jax.cli.{name}")
    if any(argument in _HELP for argument in sys.argv[1:]):
        command.define_flags()
        print(command.__doc__.strip() + _flags_help())
        return
    run(command.main, command.define_flags)


def overview() -> str:
    """What `ssl_jax --help` prints: a line for each command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary(name)}" for name in COMMANDS]
    return "\n".join(
        [
            "usage: ssl_jax COMMAND [--option=value ...]",
            "",
            *lines,
            "",
            "ssl_jax COMMAND --help describes one command.",
        ]
    )


def summary(command: str) -> str:
    """The first sentence of a command's docstring, without its example."""
    path = pathlib.Path(__file__).with_name(f"{command}.py")
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return docstring.partition("\n")[0].partition(": ssl_jax ")[0].rstrip(".:")


def _flags_help() -> str:
    """The flags of the one command that was imported, and of what it shares with others."""
    known = flags.FLAGS.flags_by_module_dict()
    own = [module for module in known if module.startswith(f"{__package__}.") if module != __name__]
    shown = [flag for module in [*own, __name__] for flag in known.get(module, [])]
    if not shown:
        return ""
    width = max(len(flag.name) for flag in shown) + 6
    lines = [
        textwrap.fill(
            _flag_help(flag), 100, initial_indent=f"  --{flag.name}".ljust(width),
            subsequent_indent=" " * width, break_on_hyphens=False, break_long_words=False,
        )
        for flag in shown
    ]  # fmt: skip
    return "\n".join(["", "", "Options:", *lines])


def _flag_help(flag: flags.Flag) -> str:
    """What a flag means and its default, without what absl adds."""
    text = flag.help.partition(";\n")[0]
    if isinstance(flag, flags.EnumFlag):
        text = f"{text.partition('>: ')[2]} One of {', '.join(flag.parser.enum_values)}."
    if isinstance(flag, flags.MultiFlag) and "repeated" not in text:
        text += " May be repeated."
    default = ",".join(flag.default) if isinstance(flag.default, list) else flag.default
    unset = default is None or default is False or default == ""
    return text if unset else f"{text} (default: {default})"


def run(main: Callable[[], int | None], define_flags: Callable[[], None]) -> None:
    """Defines and parses the flags, calls `main` and exits with what it returns (None: 0).

    Flags are defined here and not when a command's module is imported, so that modules can be
    imported together.

    A mistake of the user's (UserError, an unknown flag or config key) and what may end a run
    (RunError) are one line on stderr and exit code 1. So are memory that is exhausted and errors of
    the operating system, such as a full disk; logging at level INFO shows their tracebacks. The
    loss of another process of the same run is one line too, with exit code
    `parallel.LOST_PROCESS`. Anything else keeps its traceback.
    """
    absl_logging.set_verbosity(absl_logging.WARNING)
    _log_once()
    absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(message)s"))
    parallel.skip_absent_tpu()
    define_flags()

    def guarded(argv: Sequence[str]) -> int | None:
        if len(argv) > 1 and not TAKES_ARGUMENTS.intersection(argv[0].split()):
            _stop(f"unexpected argument {argv[1]!r}; options are written --name=value")
        try:
            code = main()
            sys.stdout.flush()
            return code
        except Exception as error:
            # The other processes of a job wait for this one in collectives: leave at once.
            if reason := parallel.lost_process(error):
                print(f"error: another process of this run is gone ({reason}); the same command, "
                      "again in all processes, continues from the last checkpoint",
                      file=sys.stderr)  # fmt: skip
                parallel.leave(parallel.LOST_PROCESS)
            if isinstance(error, (UserError, RunError)):
                print(f"error: {error}", file=sys.stderr)
                parallel.leave(1)
            if message := _out_of_memory(error) or _system_error(error):
                print(f"error: {message}", file=sys.stderr)
                logging.getLogger(__name__).info("traceback", exc_info=error)
                parallel.leave(1)
            if jax.process_count() == 1:
                raise
            traceback.print_exc()
            parallel.leave(1)

    app.run(guarded, flags_parser=_parse)


def _log_once() -> None:
    """Takes away the handler that absl adds when a library logs while it is imported.

    With it each warning would be printed twice: `app.run` adds absl's own handler.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        if type(handler) is logging.StreamHandler:
            root.removeHandler(handler)


def _out_of_memory(error: Exception) -> str | None:
    """A message if the host's or a device's memory is exhausted, else None."""
    text = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, MemoryError):
        allocation = text or "on the host"
    elif isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in text:
        allocation = text.partition("RESOURCE_EXHAUSTED:")[2].strip()[:200] or "on a device"
    else:
        return None
    return (
        f"out of memory ({allocation}); use a smaller batch_size or micro_batch_size, or a "
        "smaller net"
    )


def _system_error(error: Exception) -> str | None:
    """The operating system's message and the file that it is about; None for other errors."""
    if not isinstance(error, OSError) or not error.errno:
        return None
    files = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return f"{files}: {error.strerror}" if files else f"{error.strerror} (while writing or reading)"


# --config.KEY=VALUE becomes --override=KEY=VALUE: which keys there are, the config says.
_KEY = "config."


def define_config_flag() -> None:
    """The flag --config=NAME[:VARIANT] with its overrides --config.key=value."""
    flags.DEFINE_string(
        "config", None,
        "Config: NAME or FILE.py, optionally with :VARIANT. --config.KEY=VALUE sets a key.",
    )  # fmt: skip
    flags.DEFINE_multi_string("override", [], "KEY=VALUE: the same as --config.KEY=VALUE.")


def read_config() -> ConfigDict:
    """The resolved config of the flag, see `ssl_jax.config.resolve`.

    Raises:
      UserError: no --config, or what `load`, `apply` and `resolve` find.
    """
    source = flags.FLAGS.config
    if source is None:
        raise UserError("--config is missing, e.g. --config=simclr:digits")
    overrides = {}
    for text in flags.FLAGS.override:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--config.{key}: write --config.{key}=value")
        overrides[key] = value
    return config_lib.resolve(config_lib.apply(config_lib.load(source), overrides), overrides)


def _parse(argv: Sequence[str]) -> list[str]:
    arguments = list(argv)
    for number, argument in enumerate(arguments):
        name = argument.lstrip("-")
        if not argument.startswith("-") or not name.startswith(_KEY):
            continue
        if "override" not in flags.FLAGS:
            setting = name.removeprefix(_KEY)
            if "cell" in flags.FLAGS:  # of a sweep
                _stop(f"--{name}: every cell is set by --set={setting}")
            if "workdir" in flags.FLAGS:
                _stop(f"--{name}: this command takes the config of the run as it is")
            _stop(f"there is no option --{name}")
        arguments[number] = f"--override={name.removeprefix(_KEY)}"
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        _stop(_in_our_words(error))


def _in_our_words(error: flags.Error) -> str:
    """One line of what absl says of a flag, with the way out."""
    if isinstance(error, flags.UnrecognizedFlagError):
        name, modules = error.flagname, flags.FLAGS.flags_by_module_dict()
        own = [
            flag.name
            for module, defined in modules.items()
            if not module.startswith("absl")
            for flag in defined
        ]
        hint = nearest(name, own)
        if not hint and "override" in own:
            return f"there is no option --{name}; a key of the config is --config.{name}=..."
        return f"there is no option --{name}.{hint}"
    line = str(error).splitlines()[0].removeprefix("flag ")
    line = re.sub(r": invalid literal for int\(\).*", "; use a whole number", line)
    line = re.sub(r": could not convert string to float.*", "; use a number", line)
    line = re.sub(r": \('Non-boolean argument.*", "; use true or false", line)
    choices = re.search(r": value should be one of <(.*)>$", line)
    return f"{line[: choices.start()]}; use {choices[1].replace('|', ', ')}" if choices else line


def _stop(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)
