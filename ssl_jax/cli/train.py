"""Pretrains or trains a method: ssl_jax train --config=simclr:digits --workdir=runs/x

The same command again continues an interrupted run, bit for bit; on a finished run it does nothing,
and with more epochs it extends it. Exit codes: 0 finished, 143 after SIGTERM and 130 after SIGINT
(the state is saved), 1 for errors.

--dry_run prints what the config means, and every key of it with its value and meaning. It trains
and writes nothing, and needs no data if their size is known (`data.num_examples`).
"""

from __future__ import annotations

from absl import flags
from ml_collections import ConfigDict

from ssl_jax import config as config_lib
from ssl_jax import data, parallel
from ssl_jax.cli import app
from ssl_jax.core.errors import UserError
from ssl_jax.experiment import preflight
from ssl_jax.experiment.build import Experiment, use_compilation_cache
from ssl_jax.run.evaluation_checks import check_evaluations
from ssl_jax.run.loop import Run


def define_flags() -> None:
    app.define_config_flag()
    flags.DEFINE_string("workdir", None, "Where the run lives; a path or gs://bucket/path.")
    flags.DEFINE_bool(
        "allow_config_change", False, "Continue a workdir although its config differs."
    )
    flags.DEFINE_bool("dry_run", False, "Print every config key and what the run is; no training.")


def main() -> int:
    given = flags.FLAGS
    if not given.workdir and not given.dry_run:
        raise UserError("--workdir is missing, e.g. --workdir=runs/demo")
    config = app.read_config()
    if given.dry_run:
        print(dry_run(config))
        return 0
    use_compilation_cache(config.compilation_cache)
    parallel.initialize()
    run = Run(config, given.workdir, allow_config_change=given.allow_config_change)
    return run.execute()


def dry_run(config: ConfigDict) -> str:
    """What a run of the config would be, checked as its first seconds check it.

    Args:
      config: a resolved config.

    Raises:
      UserError: as `Run`, where that can be known without the data.
    """
    experiment = Experiment.build(config, data.spec_from_config(config.data))
    check_evaluations(experiment)
    parallel.check_batch_size(config.batch_size, experiment.mesh)
    return f"{preflight.text(preflight.lines(experiment))}\n\n{config_lib.listing(config)}"
