"""Runs evaluations on features: selects and checks the arrays that each evaluation needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.evals import registry
from ssl_jax.evals.registry import LABEL, Evaluation
from ssl_jax.evals.shared_factor import Rendered
from ssl_jax.evals.split_rows import SplitRows, total

Features = Mapping[str, Any]  # arrays; features may be `SplitRows` for evaluations that take them


def evaluate(
    evaluations: Sequence[str | Evaluation],
    train: Features | None,
    test: Features,
    *,
    num_classes: int | None = None,
    factor_names: Sequence[str] = (),
    label_names: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    feature: str = "h",
    devices: Sequence[jax.Device] | None = None,
    on_error: Callable[[str, Exception], None] | None = None,
    rendered: Callable[[str], Rendered] | None = None,
    outcomes: dict[str, dict[str, np.ndarray]] | None = None,
) -> dict[str, float]:
    """Runs evaluations on features of a train and a test split.

    Args:
      evaluations: names or loaded evaluations, e.g. ("knn", "linear", "few_shot").
      train, test: `h` (or the output that `feature` or the evaluation names) float [n d], or frames
        [n t d]; and the arrays that the evaluations need: `label` int [n] or [n t], `factors` float
        [n f]. Frames are flattened with their targets. Evaluations that need labels skip rows
        without a label (-1). `train` may be None if no evaluation fits a probe.
      num_classes: number of classes of `label`; None: one more than the largest label, as always
        for other targets.
      factor_names: names of the columns of `factors`.
      label_names: names of the columns of `labels`.
      config: the eval section; its sub-section `knn` holds options of `knn`, and so on.
      seed: seed of all random numbers (held-out split, label sets).
      feature: the key of the features, e.g. "z" to evaluate a projection head's output.
      devices: devices to compute on; default: those of this process, of all processes for
        rows that are split over them, or fewer for small data sets.
      on_error: called with the name and the error of an evaluation that fails. Its metrics are then
        missing. None raises the error.
      rendered: name of an output -> new examples of the data set with this output as codes; None:
        it does not render any.
      outcomes: gets, by the name of each evaluation that has any, what it predicts of each test
        example, in the order of `test`.

    Returns:
      Metrics by `evaluation/metric`, such as `knn/top1`, `few_shot/1` and `few_shot/1_std`.

    Raises:
      UserError: an unknown name or option, missing or invalid labels, features that are not finite
        or have different widths.
    """
    loaded = [
        registry.load(evaluation, config) if isinstance(evaluation, str) else evaluation
        for evaluation in evaluations
    ]
    # Checks all arrays before the first evaluation, which may take minutes.
    prepared: dict[tuple, Any] = {}
    calls: list[tuple[Evaluation, dict[str, Any]]] = []
    for evaluation in loaded:
        key = (evaluation.feature_of(feature), evaluation.needs, evaluation.fits)
        try:
            if key not in prepared:
                splits = {"train": train, "test": test} if evaluation.fits else {"test": test}
                prepared[key] = _prepare(evaluation, splits, key[0], num_classes)
        except Exception as error:
            _report(evaluation, error, on_error)
        else:
            arrays, classes = prepared[key]
            examples = rendered and rendered(key[0])
            calls.append((evaluation, {**arrays, "num_classes": classes, "rendered": examples}))
    metrics: dict[str, float] = {}
    for evaluation, arguments in calls:
        try:
            own: dict[str, np.ndarray] = {}
            metrics |= evaluation.call(
                outcomes=own,
                **arguments, factor_names=tuple(factor_names), label_names=tuple(label_names),
                seed=seed, devices=devices,
            )  # fmt: skip
            if outcomes is not None and own:
                outcomes[evaluation.name] = own
        except Exception as error:
            _report(evaluation, error, on_error)
    return metrics


def _report(
    evaluation: Evaluation, error: Exception, on_error: Callable[[str, Exception], None] | None
) -> None:
    if on_error is None:
        raise error
    on_error(evaluation.name, error)


def _prepare(
    evaluation: Evaluation,
    splits: Mapping[str, Features | None],
    feature: str,
    num_classes: int | None,
) -> tuple[dict[str, Features], int | None]:
    """Returns the arrays of the evaluation, {split: {"h", "label", ...}}, and num_classes."""
    for split, rows in splits.items():
        if rows is None:
            raise ValueError(f"{evaluation.name} needs features of the {split} split")
        _check_features(split, rows, feature)
    widths = {split: np.shape(rows[feature])[-1] for split, rows in splits.items()}
    if len(set(widths.values())) > 1:
        raise UserError(
            f"features {feature!r} have {widths['train']} dimensions on the train split "
            f"and {widths['test']} on the test split; extract both with one encoder"
        )
    arrays = {split: _rows(evaluation, split, rows, feature) for split, rows in splits.items()}
    if not evaluation.has_target:
        return arrays, num_classes
    largest = max(int(rows[LABEL].max()) for rows in arrays.values())
    if evaluation.target != LABEL or num_classes is None:
        num_classes = largest + 1
    if largest >= num_classes:
        raise UserError(f"label {largest} is outside num_classes {num_classes}")
    return arrays, num_classes


def _check_features(split: str, rows: Features, feature: str) -> None:
    if feature not in rows:
        raise UserError(
            f"the {split} split has no features {feature!r}; it has {', '.join(sorted(rows))}."
            f"{nearest(feature, rows)}"
        )
    values = _whole_or_split(rows[feature])
    if values.ndim not in (2, 3):
        raise UserError(
            f"features {feature!r} of the {split} split have shape {values.shape}; "
            "evaluations take [n d], or frames [n t d]"
        )
    is_split = isinstance(values, SplitRows)
    own = values.values if is_split else values
    bad = int((~np.isfinite(own).all(axis=tuple(range(1, own.ndim)))).sum())
    if is_split:
        bad = total(bad)
    if bad:
        raise UserError(
            f"features {feature!r} of {bad} of {len(values)} {split} examples are not finite; "
            "evaluate an earlier checkpoint"
        )


def _rows(evaluation: Evaluation, split: str, rows: Features, feature: str) -> dict[str, Any]:
    """`h` and the needed arrays of one split, one row per example or frame."""
    h = _whole_or_split(rows[feature])
    out = {}
    for name, needed in zip(evaluation.needs, evaluation.module.NEEDS, strict=True):
        is_target = needed == LABEL
        if name in rows:
            values = np.asarray(rows[name])
        elif is_target:
            values = np.full(h.shape[:-1], -1)
        else:
            raise UserError(
                f"{evaluation.name} needs {name}, which the {split} split does not have"
            )
        check_frames(evaluation, feature, h.ndim, values.ndim)
        if values.shape[: h.ndim - 1] != h.shape[:-1]:
            noun = "labels" if name == LABEL else name
            raise UserError(f"the {split} split has {_count(h.shape[:-1])} features and "
                            f"{_count(values.shape[: h.ndim - 1])} {noun}")  # fmt: skip
        out[needed] = values.reshape(-1, *values.shape[h.ndim - 1 :])
    h = h.flattened() if isinstance(h, SplitRows) else h.reshape(-1, h.shape[-1])
    if not evaluation.has_target:
        return {"h": h, **out}
    has_label = out[LABEL] >= 0
    if not has_label.any():
        if evaluation.target != LABEL:
            raise UserError(f"the {split} split has no {evaluation.target} for {evaluation.name}")
        raise UserError(
            f"the {split} split has no labels and {evaluation.name} needs them; evaluate on a "
            "labelled data set (eval.data), or use collapse, which needs no labels"
        )
    out[LABEL] = out[LABEL].astype(np.int32)
    out = {"h": h, **out}
    if has_label.all():  # without a copy of the features
        return out
    return {
        name: array.kept(has_label) if isinstance(array, SplitRows) else array[has_label]
        for name, array in out.items()
    }


def _whole_or_split(features: Any) -> Any:
    return features if isinstance(features, SplitRows) else np.asarray(features)


def check_features(
    evaluations: Sequence[Evaluation],
    outputs: Mapping[str, Any],
    feature: str = "h",
    targets: Mapping[str, Any] | None = None,
) -> None:
    """Checks that a method has the outputs that evaluations take.

    Args:
      evaluations: the evaluations to run.
      outputs: outputs of the method by name, arrays or their shapes.
      feature: the output to evaluate, for evaluations that do not name one.
      targets: shapes of an example's arrays; if given, their number of dimensions is checked.

    Raises:
      UserError: an evaluation takes a missing output, or an output of another rank.
    """
    for evaluation in evaluations:
        name, needed = evaluation.name, evaluation.feature_of(feature)
        if needed not in outputs:
            where = "--evals, eval.names and eval.final_names"
            raise UserError(
                f"evaluation {name!r} needs the output {needed!r}, but this method has "
                f"{', '.join(sorted(outputs))}; leave it out of "
                f"{'eval.features' if needed == feature != 'h' else where}"
            )
        rank = len(outputs[needed].shape)
        if evaluation.takes_tokens:
            if rank != 3:
                raise UserError(
                    f"eval.{name}.feature is {needed!r}, which is no output with one vector a "
                    "patch; use last1/patches, or layer1/patches, stage1/patches, ..."
                )
            continue
        if rank not in (2, 3):
            raise UserError(
                f"evaluation {name!r} takes features [n d] or frames [n t d], and {needed!r} has "
                f"{rank} dimensions"
            )
        if rank == 3 and evaluation.needs and not evaluation.has_target:
            raise UserError(
                f"evaluation {name!r} takes features [n d], and {needed!r} has one vector a frame"
            )
        if targets is not None and evaluation.target in targets:
            target_rank = 1 + len(targets[evaluation.target].shape)
            check_frames(evaluation, needed, rank, target_rank)


def check_frames(evaluation: Evaluation, feature: str, rank: int, target_rank: int) -> None:
    """Checks that features and targets both belong to frames or both to examples.

    Args:
      evaluation: the evaluation that takes them.
      feature: the name of the features.
      rank: dimensions of the features, 2 or 3 ([n t d]).
      target_rank: dimensions of the target.

    Raises:
      UserError: one of them has a value per frame, the other a value per example.
    """
    if not evaluation.has_target or target_rank == rank - 1:
        return
    name, target = evaluation.name, evaluation.target
    if rank == 3:
        raise UserError(
            f"eval.{name}: {target!r} is one value an example, and features {feature!r} are one "
            f"vector a frame; set eval.{name}.feature to an output with one vector an example"
        )
    raise UserError(
        f"eval.{name}: {target!r} is one value a frame, and features {feature!r} are one vector an "
        f"example; set eval.{name}.feature to an output with one vector a frame"
    )


def _count(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
