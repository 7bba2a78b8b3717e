"""Checks of a run's evaluations that need no data, see `dry_evaluation` for the others."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ml_collections import ConfigDict

from ssl_jax import evals
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.data import classes
from ssl_jax.evals.on_features import check_features
from ssl_jax.evals.registry import LABEL, Evaluation
from ssl_jax.experiment.build import Experiment
from ssl_jax.run import baselines
from ssl_jax.run.early_stopping import takes_best


def check_evaluations(experiment: Experiment) -> None:
    """Checks the names, options and features of `eval.names` and `eval.final_names`.

    Raises:
      UserError: an evaluation or option does not exist; `eval.classes` without `data.classes` names
        classes; an evaluation takes an output that the method does not have, or one of another
        rank; the data do not have a baseline; no evaluation measures `checkpoint.best_metric`.
    """
    section = experiment.config.eval
    features = tuple(section.features)
    known_classes = (classes.UNSEEN, classes.SEEN, classes.ALL)
    if experiment.config.data.classes is None and section.classes not in known_classes:
        raise UserError(
            f"eval.classes={section.classes!r} names classes, but the run is trained on all: set "
            f"data.classes too, or use one of {', '.join(known_classes)}"
        )
    all_evaluations = evals.load_all((*section.names, *section.final_names), section)
    final = evals.load_all(section.final_names, section)
    for evaluation in all_evaluations:
        evaluation.check_applies(experiment.method, experiment.spec)
    spec = experiment.spec.evaluated
    names = {one.feature_of(feature) for one in all_evaluations for feature in features}
    names.update(*(one.other_outputs for one in all_evaluations))
    outputs = experiment.output_shapes(spec, names)
    targets = spec.arrays
    check_features(all_evaluations, outputs, targets=targets)
    for feature in features:
        check_features(final, outputs, feature, targets)
    baselines.check(section.baselines, spec)
    check_best_metric(experiment.config, during_training(experiment))


def during_training(experiment: Experiment) -> list[Evaluation]:
    """The evaluations of `eval.names` that the data allow, and the automatic ones."""
    section, spec = experiment.config.eval, experiment.spec
    evaluations = list(evals.load_all(section.names, section))
    if not spec.num_classes and not section.data:
        evaluations = [evaluation for evaluation in evaluations if LABEL not in evaluation.needs]
    for evaluation in evals.automatic(section):
        if evaluation.applies(experiment.method, spec):
            evaluations.append(evaluation)
    return evaluations


def check_best_metric(config: ConfigDict, evaluations: Sequence[Evaluation]) -> None:
    """Checks `checkpoint.best_metric` and its direction.

    The default is a kNN metric. If kNN is not evaluated, that is an error only if the results of
    the run depend on the best checkpoint.

    Args:
      config: a resolved config.
      evaluations: the evaluations during training.

    Raises:
      UserError: no evaluation measures the metric, or `checkpoint.best_mode` is the wrong one.
    """
    key, mode = config.checkpoint.best_metric, config.checkpoint.best_mode
    if not key:
        return
    name, _, metric_name = key.removeprefix("eval/").partition("/")
    measuring = [evaluation for evaluation in evaluations if evaluation.name == name]
    metric = measuring[0].metric(metric_name) if measuring else None
    if metric is None or not key.startswith("eval/"):
        known = evals.describe(key, config.eval) if key.startswith("eval/") else None
        if known is not None and not takes_best(config):
            return
        shown = [
            f"eval/{evaluation.name}/{re.sub('{.*}', 'N', pattern)}"
            for evaluation in evaluations
            for pattern, declared in evaluation.module.METRICS.items()
            if declared.shown
        ]
        raise UserError(
            f"checkpoint.best_metric is {key!r}, but the evaluations during training (eval.names) "
            f"measure {', '.join(shown) or 'nothing'}.{nearest(key, shown)}"
        )
    if metric.better and mode != {"higher": "max", "lower": "min"}[metric.better]:
        raise UserError(
            f"checkpoint.best_mode is {mode!r}, but a {metric.better} {key} is better; "
            f"set checkpoint.best_mode={'max' if metric.better == 'higher' else 'min'}"
        )
