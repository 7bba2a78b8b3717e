"""What every command shares: flags, one-line errors and exit codes."""

from __future__ import annotations

import ast
import logging
import sys
import traceback
from collections.abc import Callable, Sequence

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from ssl_jax import config as config_lib
from ssl_jax import parallel
from ssl_jax.errors import RunError, UserError, nearest


def run(main: Callable[[], int | None], define_flags: Callable[[], None]) -> None:
    """Defines and parses the flags, calls `main` and exits with what it returns (None: 0).

    Flags are defined here and not when a command's module is imported, so that modules can be
    imported together.

    A mistake of the user's (UserError, an unknown flag or config key) and what may end a run
    (RunError) are one line on stderr and exit code 1. The loss of another process of the same run
    is one line too, with exit code `parallel.LOST_PROCESS`. Anything else keeps its traceback.
    """
    absl_logging.set_verbosity(absl_logging.WARNING)
    absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(message)s"))
    parallel.skip_absent_tpu()
    define_flags()

    def guarded(argv: Sequence[str]) -> int | None:
        if len(argv) > 1:
            _stop(f"unexpected argument {argv[1]!r}; options are written --name=value")
        try:
            return main()
        except Exception as error:
            # The other processes of a job wait for this one in collectives: leave at once.
            if reason := parallel.lost_process(error):
                print(f"error: another process of this run is gone ({reason}); the same command, "
                      "again in all processes, goes on from the last checkpoint",
                      file=sys.stderr)  # fmt: skip
                parallel.leave(parallel.LOST_PROCESS)
            if isinstance(error, (UserError, RunError)):
                print(f"error: {error}", file=sys.stderr)
                parallel.leave(1)
            if jax.process_count() == 1:
                raise
            traceback.print_exc()
            parallel.leave(1)

    app.run(guarded, flags_parser=_parse)


# Each data set has options of its own, which a config file need not list.
_OPTIONS = "config.data.options."


def define_config_flag() -> None:
    """The flag --config=FILE[:VARIANT] with its overrides --config.key=value."""
    config_flags.DEFINE_config_file(
        "config", None, "Config file, FILE.py or FILE.py:VARIANT.", lock_config=True
    )


def read_config() -> ConfigDict:
    """The resolved config of the flag, see `ssl_jax.config.resolve`.

    Raises:
      UserError: no --config, or what `resolve` finds.
    """
    config = flags.FLAGS.config
    if config is None:
        raise UserError("--config is missing, e.g. --config=configs/simclr.py:digits")
    return config_lib.resolve(config, config_flags.get_override_values(flags.FLAGS["config"]))


def _parse(argv: Sequence[str]) -> list[str]:
    source = _config_source(argv)
    if source:
        try:
            config_lib.check_file(source.partition(":")[0])
        except UserError as error:
            _stop(str(error))
    whole = sys.argv
    try:
        sys.argv, options = _split_options(argv)  # where the config flag looks for its overrides
        rest = flags.FLAGS(sys.argv)
        if options:
            with flags.FLAGS.config.unlocked():
                flags.FLAGS.config.data.options.update(options)
        return rest
    except (
        flags.Error, UserError, OSError, SyntaxError, AttributeError, KeyError, TypeError
    ) as error:  # fmt: skip
        # The flag library buries what is wrong with a config file or a key: look for it first.
        try:
            line = _wrong_config(argv)
        except UserError as found:
            line = str(found)
        if line is None and not isinstance(error, (flags.Error, UserError)):
            raise
        _stop(line or str(error).splitlines()[0])
    finally:
        sys.argv = whole


def _split_options(argv: Sequence[str]) -> tuple[list[str], dict[str, object]]:
    """The arguments without data options that the config file does not have, and those.

    A value is read as a Python literal, or else as text.
    """
    source = _config_source(argv)
    if not source or not any(a.lstrip("-").startswith(_OPTIONS) for a in argv):
        return list(argv), {}
    known = config_lib.load(source).data.options
    rest, options = [], {}
    for argument in argv:
        name, given, text = argument.lstrip("-").partition("=")
        key = name.removeprefix(_OPTIONS)
        if key in (name, "") or not given or "." in key or key in known:
            rest.append(argument)
            continue
        try:
            options[key] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            options[key] = text
    return rest, options


def _config_source(argv: Sequence[str]) -> str:
    """What --config says, e.g. configs/simclr.py:digits; empty if it is not given."""
    given = [a.split("=", 1)[1] for a in argv if a.startswith(("--config=", "-config="))]
    return given[-1] if given else ""


def _wrong_config(argv: Sequence[str]) -> str | None:
    """The line for the first override whose key the config does not have, None if all exist.

    Raises:
      UserError: the config file itself is wrong.
    """
    source = _config_source(argv)
    if not source:
        return None
    if flags.FLAGS["config"].flag_type() == "string":  # of a sweep
        given = [a.lstrip("-") for a in argv if a.lstrip("-").startswith("config.")]
        setting = given[0].removeprefix("config.") if given else ""
        return f"--{given[0]}: every cell is set by --set={setting}" if given else None
    config = config_lib.load(source)
    for argument in argv[1:]:
        name = argument.lstrip("-").partition("=")[0]
        if not name.startswith("config."):
            continue
        node, walked = config, []
        for part in name.removeprefix("config.").split("."):
            if not isinstance(node, ConfigDict) or part not in node:
                known = sorted(node) if isinstance(node, ConfigDict) else []
                path = ".".join([*walked, part])
                listing = f"; known keys: {', '.join(known)}." if known else "."
                return f"unknown config key {path}{listing}{nearest(part, known)}"
            node = node[part]
            walked.append(part)
    return None


def _stop(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)
