"""What can be said of a run's evaluations before its first step."""

from __future__ import annotations

import re
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from ssl_jax import evals
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.evals.on_features import check_features
from ssl_jax.evals.registry import LABEL, Evaluation
from ssl_jax.experiment.build import Experiment
from ssl_jax.run.early_stopping import takes_best
from ssl_jax.run.probing import Prober


def check_evaluations(experiment: Experiment) -> None:
    """Checks the names, options and features of `eval.names` and `eval.final_names`.

    Raises:
      UserError: there is no such evaluation or option, or it takes an output that the method does
        not make, or one with other dimensions; or none measures `checkpoint.best_metric`.
    """
    section = experiment.config.eval
    features = tuple(section.features)
    if len(set(features)) < len(features) or "h" not in features:
        raise UserError(
            f"eval.features is {features}; it names different outputs, and h is one of them"
        )
    every = evals.load_all((*section.names, *section.final_names), section)
    final = evals.load_all(section.final_names, section)
    for evaluation in every:
        evaluation.check_applies(experiment.method, experiment.spec)
    state, spec = experiment.abstract_state, experiment.spec.evaluated
    outputs = jax.eval_shape(experiment.method.features, state.weights, spec.batch(1))
    targets = spec.arrays
    check_features(every, outputs, targets=targets)
    for feature in features:
        check_features(final, outputs, feature, targets)
    check_best_metric(experiment.config, _while_training(experiment))


def _while_training(experiment: Experiment) -> list[Evaluation]:
    section, spec = experiment.config.eval, experiment.spec
    named = evals.load_all(section.names, section)
    if not spec.num_classes and not section.data:
        named = [one for one in named if LABEL not in one.needs]
    automatic = [one for one in evals.automatic(section) if one.applies(experiment.method, spec)]
    return [*named, *automatic]


def check_best_metric(config: ConfigDict, evaluations: Sequence[Evaluation]) -> None:
    """Checks `checkpoint.best_metric` and its direction.

    A metric of an evaluation that is not run is an error only where the run's results depend on it:
    the default names kNN.

    Args:
      config: a resolved config.
      evaluations: those that are run while training.

    Raises:
      UserError: no evaluation measures it, or its better values are at the other end.
    """
    key, mode = config.checkpoint.best_metric, config.checkpoint.best_mode
    if not key:
        return
    name, _, rest = key.removeprefix("eval/").partition("/")
    measuring = [one for one in evaluations if one.name == name]
    metric = measuring[0].metric(rest) if measuring else None
    if metric is None or not key.startswith("eval/"):
        known = evals.describe(key, config.eval) if key.startswith("eval/") else None
        if known is not None and not takes_best(config):
            return
        shown = [
            f"eval/{one.name}/{re.sub('{.*}', 'N', pattern)}"
            for one in evaluations
            for pattern, declared in one.module.METRICS.items()
            if declared.shown
        ]
        raise UserError(
            f"checkpoint.best_metric is {key!r}, and the evaluations while training (eval.names) "
            f"measure {', '.join(shown) or 'nothing'}.{nearest(key, shown)}"
        )
    if metric.better and mode != {"higher": "max", "lower": "min"}[metric.better]:
        raise UserError(
            f"checkpoint.best_mode is {mode!r}, and of {key} the {metric.better} value is better; "
            f"set checkpoint.best_mode={'max' if metric.better == 'higher' else 'min'}"
        )


def check_labels(prober: Prober) -> None:
    """Checks the labels that evaluations need, where the data set tells them without reading it.

    Raises:
      UserError: a split has none, or too few of a class.
    """
    section = prober.config.eval
    names = (*section.names, *section.final_names)
    needing = [one for one in evals.load_all(names, section) if LABEL in one.needs]
    if not needing or not prober.labelled:
        return
    subset = prober.train_subset()
    for split, source in (("train", prober.train), ("test", prober.test)):
        labels = source.labels
        if labels is None:
            continue
        labels = np.asarray(labels if split == "test" or subset is None else labels[subset])
        if not (labels >= 0).any():
            raise UserError(
                f"eval.{split}_split: {source.name} has no labels, and evaluation "
                f"{needing[0].name!r} needs them"
            )
        if split == "test":
            continue
        counts = np.bincount(labels[labels >= 0])
        for evaluation in needing:
            if hasattr(evaluation.module, "check"):
                evaluation.module.check(counts, **evaluation.options)
