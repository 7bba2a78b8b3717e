"""What linear maps read from each layer of an encoder: the class, or the factors of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.evals.model import Model
from ssl_jax.evals.properties import layers as layers_lib
from ssl_jax.evals.properties.linear_probes import Target, skills

LABEL, FACTORS = "label", "factors"
FEATURES = "features"  # the place of the evaluated output in the curves over depth


class Split(NamedTuple):
    """A split that probes are fitted on or scored on.

    Attributes:
      source: the data.
      rows: numbers of the examples; None: all.
      features: `h` [n d], and the arrays `label` or `factors` of these examples.
    """

    source: Any
    rows: np.ndarray | None
    features: Mapping[str, np.ndarray]


def scores(
    model: Model,
    prober: Any,
    train: Split,
    test: Split,
    *,
    factor_names: Sequence[str],
    layers: Sequence[str],
    cells: int,
) -> dict[str, float]:
    """`depth_LAYER_FACTOR`, `depth_features_FACTOR`, and `linear`, the mean of the latter.

    Args:
      model: the model.
      prober: encodes the splits.
      train, test: probes are fitted on the first and scored on the second.
      factor_names: names of the factors; without any, the class is predicted.
      layers: names of layers, in the order of the encoder.
      cells: see `layers.encoder`.

    Returns:
      Skills, see `linear_probes.skills`; factors that do not vary are left out. A skill below 0
      counts as 0 in the mean.
    """
    splits = (train, test)
    targets, kept = _targets([split.features for split in splits], factor_names)
    by_layer: list[Mapping[str, np.ndarray]] = [{}, {}]
    if layers:
        shape = prober.test.spec.evaluated.arrays["image"].shape
        encode = layers_lib.encoder(model, layers, shape, cells)
        by_layer = [prober.features(encode, split.source, split.rows, ()) for split in splits]
    out, last = {}, {}
    for place in (*layers, FEATURES):
        x = [
            (split.features["h"] if place == FEATURES else outputs[place])[keep]
            for split, outputs, keep in zip(splits, by_layer, kept, strict=True)
        ]
        last = skills(*x, targets)
        out |= {f"depth_{place}_{name}": skill for name, skill in last.items()}
    if last:
        out["linear"] = float(np.mean(np.maximum(list(last.values()), 0.0)))
    return out


def _targets(
    splits: Sequence[Mapping[str, np.ndarray]], factor_names: Sequence[str]
) -> tuple[dict[str, Target], list[np.ndarray]]:
    """What is predicted, and which examples of each split have it."""
    if factor_names:
        kept = [np.ones(len(split["h"]), bool) for split in splits]
        columns = zip(*(split[FACTORS].T for split in splits), strict=True)
        return {
            name: Target(*values) for name, values in zip(factor_names, columns, strict=True)
        }, kept
    kept = [split[LABEL] >= 0 for split in splits]
    values = (split[LABEL][keep] for split, keep in zip(splits, kept, strict=True))
    return {LABEL: Target(*values)}, kept
