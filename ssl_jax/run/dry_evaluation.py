"""Evaluates a run on shapes and label counts before its first step.

What an evaluation at the end of the run would fail by is found here: splits without examples or
labels, classes that are too small, features that do not fit, metrics that are not measured. Labels
that are known only when the data are read are not checked.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from ssl_jax import data
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.evals import decompositions
from ssl_jax.evals.known import Known
from ssl_jax.evals.on_features import check_features
from ssl_jax.evals.registry import LABEL, Evaluation
from ssl_jax.experiment.build import Experiment
from ssl_jax.run import baselines
from ssl_jax.run.evaluation_checks import during_training
from ssl_jax.run.probing import Prober

_SHOWN_CLASSES = 5


def dry_evaluation(experiment: Experiment, prober: Prober) -> list[str]:
    """Checks all evaluations of a run.

    Args:
      experiment: the experiment.
      prober: gives the splits.

    Returns:
      Lines on evaluations that are limited by the data.

    Raises:
      UserError: an evaluation cannot be computed, or the metric that selects checkpoints is not
        measured; the message names the config key.
    """
    section, method = experiment.config.eval, experiment.method
    try:
        prober.check_splits(method)
    except UserError as error:
        if section.data is None or str(error).startswith("eval."):
            raise
        raise UserError(f"eval.data is {section.data!r}: {error}") from error
    planned = _possible(prober, prober.planned((*section.names, *section.final_names), method))
    if not planned:
        return []
    notes = _check(experiment, prober, planned, "test_split")
    baselines.check(section.baselines, prober.test.spec.evaluated)
    if decompositions.are_fitted(section.baselines):
        _opened(prober, "train_split")
        notes += baselines.check_fits(prober)
    training = _possible(prober, during_training(experiment))
    if section.validation_split is not None and training:
        validator = prober.scored_on(section.validation_split)
        notes += _check(experiment, validator, training, "validation_split")
    else:
        validator = prober
    _check_best_metric(experiment, validator, training)
    return list(dict.fromkeys(notes))


def _possible(prober: Prober, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """The evaluations without those that need labels, if the run's data have none."""
    needing = [evaluation for evaluation in evaluations if LABEL in evaluation.needs]
    if not needing:
        return list(evaluations)
    if prober.may_have_labels:
        _opened(prober, "train_split")
        if prober.labelled:
            return list(evaluations)
    if prober.config.eval.data is not None:
        raise UserError(
            f"eval.data: {prober.dataset} has no class labels, and evaluation {needing[0].name!r} "
            f"needs them; {_LEAVE_OUT}"
        )
    return [evaluation for evaluation in evaluations if LABEL not in evaluation.needs]


_LEAVE_OUT = "leave it out of eval.names and eval.final_names"


def _opened(prober: Prober, key: str) -> data.Source:
    """The split that a key of the eval section names.

    Raises:
      UserError: it cannot be read or is empty.
    """
    try:
        source = prober.train if key == "train_split" else prober.test
    except UserError as error:
        raise UserError(f"eval.{key}: {error}") from error
    if not len(source):
        raise UserError(f"eval.{key}: {source.name} is empty")
    return source


def check_chosen(
    experiment: Experiment, prober: Prober, evaluations: Sequence[Evaluation], feature: str
) -> tuple[list[str], dict[str, Exception]]:
    """Checks the evaluations of a command that evaluates a trained run, before it reads examples.

    Args:
      experiment: the experiment of the run.
      prober: gives the splits.
      evaluations: those that apply to the run.
      feature: the output to evaluate, for evaluations that do not name one.

    Returns:
      lines on evaluations that are limited by the data; and by name why some cannot be computed,
      such as probes of classes that are too small.

    Raises:
      UserError: the data lack what an evaluation needs, or the method lacks an output.
    """
    for evaluation in evaluations:
        if LABEL in evaluation.needs and not (prober.may_have_labels and prober.labelled):
            raise UserError(
                f"evaluation {evaluation.name!r} needs class labels, and {prober.dataset} has "
                "none; leave it out of --evals, or name labelled data by --data"
            )
    named = {evaluation.feature_of(feature) for evaluation in evaluations}
    experiment.output_shapes(experiment.spec.evaluated, named)  # layers that the encoder lacks
    known = _open_and_know(experiment, prober, evaluations, "test_split", (feature,))
    of_features = [evaluation for evaluation in evaluations if evaluation.of_features]
    check_features(of_features, known.outputs, feature, prober.test.spec.arrays)
    notes: list[str] = []
    errors: dict[str, Exception] = {}
    for evaluation in evaluations:
        try:
            prober.check_classes([evaluation])
            notes += _check_one(prober, evaluation, known, "test_split")
        except UserError as error:
            errors[evaluation.name] = error
    return list(dict.fromkeys(notes)), errors


def _check(
    experiment: Experiment, prober: Prober, evaluations: Sequence[Evaluation], key: str
) -> list[str]:
    """Checks evaluations on the split that `key` names, and returns notes."""
    section = experiment.config.eval
    known = _open_and_know(experiment, prober, evaluations, key, tuple(section.features))
    prober.check_classes(evaluations)
    of_features = [evaluation for evaluation in evaluations if evaluation.of_features]
    for feature in section.features:
        final = [evaluation for evaluation in of_features if evaluation.name in section.final_names]
        features_of = of_features if feature == "h" else final
        check_features(features_of, known.outputs, feature, prober.test.spec.arrays)
    notes = []
    for evaluation in evaluations:
        try:
            notes += _check_one(prober, evaluation, known, key)
        except UserError as error:
            message = str(error).removesuffix(".")
            raise UserError(
                f"evaluation {evaluation.name!r} cannot be computed: {message}; {_LEAVE_OUT}, or "
                f"change eval.train_split, eval.{key} or eval.data"
            ) from error
    return notes


def _open_and_know(
    experiment: Experiment,
    prober: Prober,
    evaluations: Sequence[Evaluation],
    key: str,
    features: Sequence[str],
) -> Known:
    """Opens the splits that evaluations need, checks their arrays, and returns what is known."""
    _opened(prober, key)
    if any(evaluation.fits for evaluation in evaluations):
        _opened(prober, "train_split")
    for evaluation in evaluations:
        prober.check_needs(evaluation)
    return _known(experiment, prober, evaluations, features)


def _check_one(prober: Prober, evaluation: Evaluation, known: Known, key: str) -> list[str]:
    """Checks an evaluation by what is known, and returns notes."""
    notes = _check_labels(prober, evaluation, key) if evaluation.needs == (LABEL,) else []
    note = evaluation.check(_known_to(evaluation, known))
    return [*notes, note] if note else notes


def _known(
    experiment: Experiment,
    prober: Prober,
    evaluations: Sequence[Evaluation],
    features: Sequence[str],
) -> Known:
    """What is known of the data and of the model's outputs on them.

    Raises:
      UserError: the model cannot encode the data.
    """
    weights, spec = experiment.abstract_state.weights, prober.test.spec.evaluated
    names = {evaluation.feature_of(feature) for evaluation in evaluations for feature in features}
    held_out = ()
    try:
        outputs = experiment.output_shapes(spec, names)
        if any(evaluation.name == "held_out" for evaluation in evaluations):
            held_out = tuple(jax.eval_shape(experiment.held_out, weights, spec.batch(1)))
    except Exception as error:
        text = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"eval.data: the model cannot encode the examples of {prober.test.name} ({text})"
        ) from error
    fits = any(evaluation.fits for evaluation in evaluations)
    labelled = any(evaluation.needs == (LABEL,) for evaluation in evaluations)
    subset = prober.train_subset() if fits else None
    return Known(
        train=prober.train if fits else None,
        test=prober.test,
        task=prober.task,
        num_train=(len(prober.train) if subset is None else len(subset)) if fits else 0,
        num_classes=prober.num_classes if labelled else None,
        train_counts=_train_counts(prober) if labelled and fits else None,
        outputs=outputs,
        classes=prober.classes_of_run,
        held_out=held_out,
    )


def _known_to(evaluation: Evaluation, known: Known) -> Known:
    """Without what is known of `label`, for an evaluation of another target."""
    if evaluation.needs == (LABEL,):
        return known
    return known._replace(num_classes=None, train_counts=None)


def _train_counts(prober: Prober) -> np.ndarray | None:
    """Labelled examples that probes are fitted on by class, int [c]; None: not known."""
    labels, subset = prober.train.labels, prober.train_subset()
    if labels is None:
        return None
    labels = np.asarray(labels if subset is None else labels[subset])
    return np.bincount(labels[labels >= 0], minlength=prober.num_classes)


def _check_labels(prober: Prober, evaluation: Evaluation, key: str) -> list[str]:
    """Checks the classes of both splits, and returns notes.

    Raises:
      UserError: a split has no labels, or a probe would tell nothing.
    """
    counts = None
    if evaluation.fits:
        _check_labelled(prober.train, "train_split")
        counts = _train_counts(prober)
    _check_labelled(prober.test, key)
    labels = prober.test.labels
    if counts is None or labels is None:
        return []
    (classes,) = np.nonzero(counts)
    if len(classes) < 2:
        raise UserError(
            f"all labelled examples of eval.train_split are of class {_names(prober, classes)}; a "
            "probe needs two classes"
        )
    tested = np.unique(labels[labels >= 0])
    unknown = np.setdiff1d(tested, classes)
    if not len(unknown):
        return []
    which = f"eval.{key} has examples of {len(unknown)} of its {len(tested)} classes"
    if len(unknown) == len(tested):
        raise UserError(f"eval.train_split has no example of a class that eval.{key} has")
    return [
        f"{which} that eval.train_split lacks ({_names(prober, unknown)}): no probe can predict "
        "them"
    ]


def _check_labelled(source: data.Source, key: str) -> None:
    labels = source.labels  # None with classes: they are known when the data are read
    if not source.spec.num_classes or (labels is not None and not (labels >= 0).any()):
        raise UserError(f"eval.{key}: {source.name} has no labels")


def _names(prober: Prober, classes: np.ndarray) -> str:
    """The names of classes, or their numbers."""
    known = prober.test.class_names
    names = [repr(known[label]) if known else str(label) for label in classes[:_SHOWN_CLASSES]]
    return ", ".join([*names, *(["..."] if len(classes) > _SHOWN_CLASSES else [])])


def _check_best_metric(
    experiment: Experiment, validator: Prober, evaluations: Sequence[Evaluation]
) -> None:
    """Raises UserError if the evaluation of `checkpoint.best_metric` will not measure it."""
    key = experiment.config.checkpoint.best_metric
    name = key.removeprefix("eval/").partition("/")[0]
    for evaluation in evaluations:
        if evaluation.name != name:
            continue
        features = tuple(experiment.config.eval.features)
        known = _known_to(evaluation, _known(experiment, validator, [evaluation], features))
        measured = [f"eval/{name}/{other}" for other in evaluation.measures(known)]
        if key not in measured:
            raise UserError(
                f"checkpoint.best_metric is {key!r}, but on {validator.test.name} evaluation "
                f"{name!r} measures {', '.join(measured)}.{nearest(key, measured)}"
            )
