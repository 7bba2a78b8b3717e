"""Pretrains or trains a method: ssl_jax train --config=simclr:digits --workdir=runs/x

The same command continues an interrupted run, bit for bit. It does nothing if the run is finished,
and extends the run if the config has more epochs. Exit codes: 0 finished, 143 after SIGTERM and 130
after SIGINT (the state is saved), 1 for errors.

--dry_run describes the run and prints every config key with its value and meaning. It trains and
writes nothing, and needs no data if their size is set (`data.num_examples`).
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
from ssl_jax.run import report_contents
from ssl_jax.run.evaluation_checks import check_evaluations
from ssl_jax.run.loop import Run


def define_flags() -> None:
    app.define_config_flag()
    flags.DEFINE_string("workdir", None, "Folder of the run; a path or gs://bucket/path.")
    flags.DEFINE_bool(
        "allow_config_change", False, "Continue a workdir although its config differs."
    )
    flags.DEFINE_bool("dry_run", False, "Describe the run and print every config key; no training.")


def main() -> int:
    options = flags.FLAGS
    if not options.workdir and not options.dry_run:
        raise UserError("--workdir is missing, e.g. --workdir=runs/demo")
    config = app.read_config()
    if options.dry_run:
        print(dry_run(config))
        return 0
    use_compilation_cache(config.compilation_cache)
    parallel.initialize()
    run = Run(config, options.workdir, allow_config_change=options.allow_config_change)
    return run.execute()


def dry_run(config: ConfigDict) -> str:
    """Describes the run of a config, after the checks at the start of a run.

    Args:
      config: a resolved config.

    Raises:
      UserError: a check fails; checks that need the data are skipped.
    """
    experiment = Experiment.build(config, data.spec_from_config(config.data))
    check_evaluations(experiment)
    report_contents.check_beside(experiment)
    parallel.check_batch_size(config.batch_size, experiment.mesh)
    return f"{preflight.text(preflight.lines(experiment))}\n\n{config_lib.listing(config)}"
