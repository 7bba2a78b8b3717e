"""Pretrains or trains a method: ssl_jax train --config=simclr:digits --workdir=runs/x

The same command again continues an interrupted run, bit for bit; on a finished run it does nothing,
and with more epochs it extends it. Exit codes: 0 finished, 143 after SIGTERM and 130 after SIGINT
(the state is saved), 1 for errors.
"""

from __future__ import annotations

from absl import flags

from ssl_jax import parallel
from ssl_jax.cli import app
from ssl_jax.core.errors import UserError
from ssl_jax.experiment.build import use_compilation_cache
from ssl_jax.run.loop import Run


def define_flags() -> None:
    app.define_config_flag()
    flags.DEFINE_string("workdir", None, "Where the run lives; a path or gs://bucket/path.")
    flags.DEFINE_bool(
        "allow_config_change", False, "Continue a workdir although its config differs."
    )


def main() -> int:
    given = flags.FLAGS
    if not given.workdir:
        raise UserError("--workdir is missing, e.g. --workdir=runs/demo")
    config = app.read_config()
    use_compilation_cache(config.compilation_cache)
    parallel.initialize()
    run = Run(config, given.workdir, allow_config_change=given.allow_config_change)
    return run.execute()
