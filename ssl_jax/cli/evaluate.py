"""Evaluates a checkpoint: ssl_jax evaluate --workdir=runs/x --evals=knn,linear,few_shot

On the training set's own labels, or on another data set with --data; a model of labelled texts is
scored by what it predicts. Prints a table and writes workdir/evaluations/<step>_<data>.json, with
_<weights> or _<feature> at the end of the name where --weights or --feature are others than those
that the run evaluates. Evaluations of the same checkpoint and data add up in the file: one that is
measured again replaces its own figures only, see `ssl_jax.run.evaluation_file`.
--set=knn.k=20 sets an option of an evaluation, --baselines=pixels,untrained scores these beside it.
An evaluation that fails costs its own metrics; the exit code is 1 then.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags
from etils import epath

from ssl_jax import data, evals, parallel, report
from ssl_jax.cli import checkpoint_flags
from ssl_jax.config import apply
from ssl_jax.core.console import make_console
from ssl_jax.core.errors import UserError
from ssl_jax.experiment.build import Experiment, use_compilation_cache
from ssl_jax.pretrained import trained_run
from ssl_jax.run import baselines, evaluation_file, failures
from ssl_jax.run.dry_evaluation import check_chosen
from ssl_jax.run.final_results import (
    applies_to_row,
    baseline_models,
    rows_beside,
    shown_name,
)
from ssl_jax.run.probing import Prober


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "The run.")
    checkpoint_flags.define_flags()
    flags.DEFINE_string("data", None, "Data set to probe on, e.g. tfds:cifar10; default: its own.")
    flags.DEFINE_list(
        "evals", None, f"Of {', '.join(evals.names())}; default: those of the config."
    )
    flags.DEFINE_multi_string(
        "set", [], "Option of an evaluation, e.g. analogies.path=questions-words.txt."
    )
    flags.DEFINE_string(
        "feature", "h", "Output of the method to evaluate, e.g. z, last1/mean or last4/cls_mean."
    )
    flags.DEFINE_list(
        "baselines",
        [],
        "Representations to score beside it, e.g. pixels,untrained; default: none. Names as in "
        "eval.baselines.",
    )
    flags.DEFINE_string("train_split", None, "Split to fit on; default: the config's.")
    flags.DEFINE_string("test_split", None, "Split to score; default: the config's.")


def _with_options(config: Any, settings: Sequence[str]) -> Any:
    """The config with options of evaluations, each as text such as "knn.k=20".

    Raises:
      UserError: a text has no value, or names no option.
    """
    bad = [text for text in settings if "=" not in text]
    if bad:
        raise UserError(f"--set={bad[0]} has no value, e.g. --set=knn.k=20")
    return apply(config, {f"eval.{key}": value for key, _, value in (
        text.partition("=") for text in settings
    )})  # fmt: skip


def main() -> int:
    options = flags.FLAGS
    if not options.workdir:
        raise UserError("--workdir is missing, e.g. --workdir=runs/demo")
    parallel.initialize()
    settings = [*options["set"].value, f"baselines={tuple(options.baselines)!r}"]
    saved = trained_run.read_config(options.workdir)
    usual_weights = saved.eval.weights
    config = _with_options(saved, settings)
    use_compilation_cache(config.compilation_cache)
    if options.train_split:
        config.eval.train_split = options.train_split
    if options.test_split:
        config.eval.test_split = options.test_split
    # Whatever devices there are, however many the run was trained on.
    experiment = Experiment.build(config, data.spec_from_config(config.data), parallel.make_mesh())
    prober = Prober(config, experiment.mesh, options.data, workdir=options.workdir)
    with jax.set_mesh(experiment.mesh):
        chosen, errors, notes = _chosen(experiment, prober, options.evals, options.feature)
    baselines.check(config.eval.baselines, prober.test.spec.evaluated)
    if jax.process_index() == 0:
        for note in notes:
            print(note, flush=True)
    encoder = trained_run.load_experiment(
        options.workdir, experiment, options.step, weights=options.weights
    )
    # Now: a run that goes on may delete the checkpoint, or save the step again.
    checkpoint = evaluation_file.fingerprint(options.workdir, encoder.step)
    with jax.set_mesh(experiment.mesh):
        model = experiment.model(encoder.weights)
        possible = [evaluation for evaluation in chosen if evaluation.name not in errors]
        values = prober.evaluate(model, possible, options.feature, on_error=errors.__setitem__)
        if errors and not values:
            raise next(iter(errors.values()))
        for name, error in errors.items():
            failures.warn(f"evaluation {name!r}", error)
        beside = _beside(experiment, prober, possible, options.feature)
        for evaluation in chosen:
            if evaluation.name not in errors:
                for name, row in rows_beside(evaluation, model, prober).items():
                    beside[name] = beside.get(name, {}) | row
    if jax.process_index() == 0:
        print(f"{options.workdir}, step {encoder.step}, on {prober.dataset}")
        by_number = prober.classes_by_number and any(one.of_run_classes for one in chosen)
        if by_number and prober.labelled:
            print("classes are matched by number: the run or the data know no names of theirs")
        rows = {**beside, shown_name(experiment): values}
        for table in report.tables_of(rows, config.eval):
            make_console().print(table)
        weights = options.weights or config.eval.weights
        record = {
            "step": encoder.step,
            "data": prober.dataset,
            "weights": weights,
            "feature": options.feature,
            "checkpoint": checkpoint,
            **values,
        }
        if beside:
            record["baselines"] = beside
        record["settings"] = {one.name: evaluation_file.settings(one, prober) for one in chosen}
        if errors:
            record["not_computed"] = {
                name: failures.reason(error) for name, error in errors.items()
            }
        name = re.sub(r"[^\w.-]+", "_", prober.dataset).strip("_")
        if weights != usual_weights:
            name += f"_{weights}"
        if options.feature != "h":
            name += "_" + options.feature.replace("/", "-")
        folder = epath.Path(options.workdir) / evaluation_file.FOLDER
        path = folder / f"{encoder.step}_{name}.json"
        for line in evaluation_file.add(path, record):
            print(line)
        print(f"written to {path}")
    return 1 if errors else 0


def _chosen(
    experiment: Experiment, prober: Prober, names: Sequence[str] | None, feature: str
) -> tuple[tuple[evals.Evaluation, ...], dict[str, Exception], list[str]]:
    """The evaluations of these names; without names, those of the run's last evaluation.

    Returns:
      the evaluations; by name why some cannot be computed; and notes on the others.

    Raises:
      UserError: one of `names` does not apply to the run or needs what the data lack, or none can
        be computed.
    """
    section = experiment.config.eval
    if names:
        chosen = evals.load_all(names, section)
        for evaluation in chosen:
            evaluation.check_applies(experiment.method, experiment.spec)
    else:
        chosen = prober.evaluations(section.final_names, experiment.method)
    if not chosen:
        raise UserError(
            f"{prober.dataset} has no labels for {', '.join(section.final_names)}; "
            "name evaluations that need none, e.g. --evals=collapse"
        )
    notes, errors = check_chosen(experiment, prober, chosen, feature)
    if len(errors) == len(chosen):
        raise next(iter(errors.values()))
    return chosen, errors, notes


def _beside(
    experiment: Experiment, prober: Prober, chosen: Sequence[evals.Evaluation], feature: str
) -> dict[str, dict[str, float]]:
    """Metrics of each of `eval.baselines` by its title; one that fails costs its own."""
    out: dict[str, dict[str, float]] = {}
    names = experiment.config.eval.baselines

    def on_error(row: str, error: Exception) -> None:
        failures.warn(f"the row {row!r}", error)

    for _, title, model in baseline_models(experiment, prober, names, on_error):
        applicable = [
            one for one in chosen if applies_to_row(one, model, feature, is_trained=False)
        ]

        def on_failure(name: str, error: Exception, row: str = title) -> None:
            on_error(f"evaluation {name!r} of {row}", error)

        if applicable:
            out[title] = prober.evaluate(model, applicable, feature, on_error=on_failure)
    return out
