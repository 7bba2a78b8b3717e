"""Probes a checkpoint: python -m ssl_jax.evaluate --workdir=runs/x --evals=knn,linear,few_shot

On the training set's own labels, or on another data set with --data. Prints a table and writes
workdir/evaluations/<step>_<data>.json.
"""

from __future__ import annotations

import json
import re
import sys

import jax
from absl import flags
from etils import epath
from rich.console import Console

from ssl_jax import command, data, parallel, pretrained, report
from ssl_jax.errors import UserError
from ssl_jax.experiment import Experiment, use_compilation_cache
from ssl_jax.probing import Prober

_WORKDIR = flags.DEFINE_string("workdir", None, "The run.")
_STEP = flags.DEFINE_integer("step", None, "The checkpoint's step; default: the latest.")
_DATA = flags.DEFINE_string("data", None, "Data set to probe on, e.g. tfds:cifar10; default: own.")
_EVALS = flags.DEFINE_list("evals", None, "knn, linear, few_shot; default: those of the config.")
_TRAIN_SPLIT = flags.DEFINE_string("train_split", None, "Split to fit on; default: the config's.")
_TEST_SPLIT = flags.DEFINE_string("test_split", None, "Split to score; default: the config's.")


def main() -> int:
    if not _WORKDIR.value:
        raise UserError("--workdir is missing, e.g. --workdir=runs/demo")
    parallel.initialize()
    config = pretrained.read_config(_WORKDIR.value)
    use_compilation_cache(config.compilation_cache)
    if _TRAIN_SPLIT.value:
        config.eval.train_split = _TRAIN_SPLIT.value
    if _TEST_SPLIT.value:
        config.eval.test_split = _TEST_SPLIT.value
    experiment = Experiment.build(config, data.spec_from_config(config.data))
    prober = Prober(config, experiment.mesh, _DATA.value)
    encoder = pretrained.load_experiment(_WORKDIR.value, experiment, _STEP.value)
    with jax.set_mesh(experiment.mesh):
        values = prober.evaluate(encoder.encode, tuple(_EVALS.value or config.eval.final_names))
    if jax.process_index() == 0:
        print(f"{_WORKDIR.value}, step {encoder.step}, on {prober.dataset}")
        Console().print(report.summary_table({experiment.method.title: values}))
        name = re.sub(r"[^\w.-]+", "_", prober.dataset).strip("_")
        path = epath.Path(_WORKDIR.value) / "evaluations" / f"{encoder.step}_{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"step": encoder.step, "data": prober.dataset, **values}
        path.write_text(json.dumps(record, indent=2) + "\n")
        print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(command.run(main))
