"""Evaluations by name, and what they share: checking features, labels and options."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import jax
import numpy as np

from ssl_jax.core.errors import UserError, nearest

Features = Mapping[str, np.ndarray]
_COMMON = ("train", "test", "num_classes", "seed", "devices")


def evaluate(
    names: Sequence[str],
    train: Features | None,
    test: Features,
    *,
    num_classes: int | None = None,
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    feature: str = "h",
    devices: Sequence[jax.Device] | None = None,
) -> dict[str, float]:
    """Runs evaluations on features of a train and a test split.

    Args:
      names: which ones, e.g. ("knn", "linear", "few_shot").
      train, test: `h` float [n d] (or whatever `feature`, or the evaluation, names) and `label` int
        [n]; rows without a label (-1) are left out where labels are needed. `train` may be None
        where none of the evaluations needs it.
      num_classes: number of classes; None: one more than the largest label.
      config: the eval section; its sub-section `knn` holds options of `knn`, and so on.
      seed: of everything drawn (held-out split, label draws).
      feature: the key of the features, e.g. "z" to evaluate a projection head's output.
      devices: where to compute; default: this process's own, as many as the data are worth.

    Returns:
      Flat metrics, e.g. {"knn/top1": 0.93, "few_shot/1": 0.61, "few_shot/1_std": 0.02}.

    Raises:
      UserError: an unknown name or option, missing or impossible labels, features that are not
        finite or do not fit together.
    """
    modules = {name: load(name) for name in names}
    config = config or {}
    options = {name: _options(name, modules[name], config.get(name) or {}) for name in modules}
    # All of it is checked before the first evaluation takes its minutes.
    prepared: dict[tuple[str, bool, bool], tuple[dict[str, Features], int | None]] = {}
    needs = {
        name: (feature_of(name, feature), needs_train(name), module.NEEDS_LABELS)
        for name, module in modules.items()
    }
    for name, key in needs.items():
        if key not in prepared:
            splits = {"train": train, "test": test} if needs_train(name) else {"test": test}
            prepared[key] = _prepare(name, splits, key[0], num_classes)
    metrics: dict[str, float] = {}
    for name, module in modules.items():
        arrays, classes = prepared[needs[name]]
        measured = module.evaluate(
            **arrays, num_classes=classes, seed=seed, devices=devices, **options[name]
        )
        metrics |= {f"{name}/{metric}": float(value) for metric, value in measured.items()}
    return metrics


def feature_of(name: str, default: str = "h") -> str:
    """The key of the features that an evaluation takes: its own, or `default` if it takes any."""
    return getattr(load(name), "FEATURE", default)


def needs_train(name: str) -> bool:
    """Whether an evaluation fits or chooses something, on the train split."""
    return getattr(load(name), "NEEDS_TRAIN", True)


def names() -> list[str]:
    """The evaluations there are: the modules of this package that declare NEEDS_LABELS."""
    import ssl_jax.evals as package

    found = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return [name for name in found if hasattr(_module(name), "NEEDS_LABELS")]


def load(name: str) -> ModuleType:
    """The module of one evaluation.

    Raises:
      UserError: there is none of that name.
    """
    known = names()
    if name not in known:
        raise UserError(
            f"unknown evaluation {name!r}; there are {', '.join(known)}.{nearest(name, known)}"
        )
    return _module(name)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"ssl_jax.evals.{name}")


def _options(name: str, module: ModuleType, section: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(module.evaluate).parameters
    known = [key for key in parameters if key not in _COMMON]
    for key in section:
        if key not in known:
            raise UserError(
                f"unknown option eval.{name}.{key}; known: {', '.join(known) or 'none'}."
                f"{nearest(key, known)}"
            )
    return dict(section)


def _prepare(
    name: str, splits: Mapping[str, Features | None], feature: str, num_classes: int | None
) -> tuple[dict[str, Features], int | None]:
    """What evaluations like `name` take: {split: {"h", perhaps "label"}} and the classes."""
    for split, rows in splits.items():
        if rows is None:
            raise ValueError(f"{name} needs features of the {split} split")
        _check_features(split, rows, feature)
    widths = {split: np.shape(rows[feature])[1] for split, rows in splits.items()}
    if len(set(widths.values())) > 1:
        raise UserError(
            f"features {feature!r} have {widths['train']} dimensions on the train split "
            f"and {widths['test']} on the test split; extract both with one encoder"
        )
    if load(name).NEEDS_LABELS:
        return _labelled(splits, feature, num_classes, name)
    return {split: {"h": np.asarray(rows[feature])} for split, rows in splits.items()}, num_classes


def _check_features(split: str, rows: Features, feature: str) -> None:
    if feature not in rows:
        raise UserError(
            f"the {split} split has no features {feature!r}; it has {', '.join(sorted(rows))}."
            f"{nearest(feature, rows)}"
        )
    values = np.asarray(rows[feature])
    if values.ndim != 2:
        raise UserError(
            f"features {feature!r} of the {split} split have shape {values.shape}; "
            "evaluations take [n d]"
        )
    bad = int((~np.isfinite(values).all(axis=1)).sum())
    if bad:
        raise UserError(
            f"features {feature!r} of {bad} of {len(values)} {split} examples are not finite; "
            "evaluate an earlier checkpoint"
        )


def _labelled(
    splits: Mapping[str, Features], feature: str, num_classes: int | None, name: str
) -> tuple[dict[str, dict[str, np.ndarray]], int]:
    """The labelled rows of both splits as {"h", "label"}, and the number of classes."""
    kept = {}
    for split, rows in splits.items():
        label = np.asarray(rows["label"]) if "label" in rows else np.full(len(rows[feature]), -1)
        if len(label) != len(rows[feature]):
            raise UserError(
                f"the {split} split has {len(rows[feature])} features and {len(label)} labels"
            )
        has_label = label >= 0
        if not has_label.any():
            raise UserError(
                f"the {split} split has no labels and {name} needs them; evaluate on a labelled "
                "data set (eval.data), or take collapse, which needs none"
            )
        # The common case, everything labelled, must not copy gigabytes.
        h = np.asarray(rows[feature])
        h = h if has_label.all() else h[has_label]
        kept[split] = {"h": h, "label": label[has_label].astype(np.int32)}
    largest = max(int(rows["label"].max()) for rows in kept.values())
    num_classes = largest + 1 if num_classes is None else num_classes
    if largest >= num_classes:
        raise UserError(f"label {largest} is outside num_classes {num_classes}")
    return kept, num_classes
