"""Desiderata of a representation (Bengio et al. 2013, Sec. 3), measured for any encoder.

`ssl_jax.evals.properties.metrics` says what each metric means. All but smoothness and the effective
rank itself have fixed ranges, and none depends on the scale of a code, so that encoders of
different width can be compared. They are no single score: a constant code is perfectly invariant,
noise has full rank, and a sparse code need not be a good one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np

from ssl_jax.config.fields import (
    at_least,
    between,
    each,
    not_empty,
    open_fraction,
    positive,
    positive_fraction,
)
from ssl_jax.core.errors import UserError
from ssl_jax.evals import collapse, dci, mig, sap
from ssl_jax.evals.factors import as_classes, evenly
from ssl_jax.evals.known import Known
from ssl_jax.evals.model import Model
from ssl_jax.evals.properties import clusters as clusters_lib
from ssl_jax.evals.properties import (
    depth,
    interpolation,
    perturbed_codes,
    response,
    sparsity,
    units,
)
from ssl_jax.evals.properties import layers as layers_lib
from ssl_jax.evals.properties import perturbations as perturbations_lib
from ssl_jax.evals.properties.depth import FACTORS, LABEL, Split
from ssl_jax.evals.properties.metrics import PROPERTIES

NEEDS = ()
_CLASSES_WITHOUTLABELS = 10
_FACTOR_BINS = 8
_TOP_IMAGES = 9


def evaluate_model(
    model: Model,
    prober: Any,
    *,
    feature: str = "h",
    seed: int = 0,
    max_examples: Annotated[
        int, at_least(4), "Maximum number of test examples, evenly spaced."
    ] = 1000,
    probe_examples: Annotated[
        int, at_least(10), "Maximum number of train examples, evenly spaced."
    ] = 2000,
    perturbations: Annotated[
        tuple[perturbations_lib.Name, ...], not_empty, "Changes of images."
    ] = perturbations_lib.NAMES,
    strengths: Annotated[
        tuple[float, ...],
        each(positive_fraction),
        not_empty,
        "Strengths of the changes for invariance, from 0 to 1.",
    ] = (0.25, 0.5, 1.0),
    local_strength: Annotated[
        float, positive_fraction, "Strength of the changes for smoothness."
    ] = 0.1,
    clusters: Annotated[
        int | None, at_least(2), "Clusters of k-means; None: the number of classes."
    ] = None,
    neighbours: Annotated[int, positive, "Neighbours of an example for kNN purity."] = 10,
    active_threshold: Annotated[
        float, open_fraction, "Share of a unit's largest magnitude above which it is active."
    ] = 0.05,
    disentanglement: Annotated[
        tuple[Literal["mig", "sap", "dci"], ...],
        "Scores of disentanglement; sap and dci take minutes for wide codes.",
    ] = ("mig",),
    layers: Annotated[
        tuple[str, ...] | None, "Layers of the curves over depth; None: all; (): none."
    ] = None,
    cells: Annotated[
        int, between(1, 16), "Cells per side over which the map of a layer is averaged."
    ] = 2,
    pairs: Annotated[int, positive, "Maximum number of midpoints of interpolation."] = 200,
) -> dict[str, float]:
    """All desiderata that the data, the method and the output allow.

    Args:
      model: the model, or raw inputs.
      prober: provides the splits.
      feature: the output to evaluate, [n d].
      seed: of k-means and of the pairs.
      max_examples: test examples that everything is measured on.
      probe_examples: train examples for linear maps, and for distances to the data.
      perturbations, strengths, local_strength: see `perturbed_codes`; for images.
      clusters, neighbours: see `clusters`.
      active_threshold: see `sparsity`.
      disentanglement: evaluations of this package, for data with factors.
      layers, cells: see `layers`; the curves are of h only.
      pairs: see `interpolation`.

    Returns:
      Metrics by name. `depth_LAYER_FACTOR` is the skill of a linear map of a layer, and
      `depth_features_FACTOR` that of the output.

    Raises:
      UserError: codes are constant, not finite or not [n d]; there are fewer examples than
        clusters or neighbours; the encoder lacks a layer.
    """
    rows = prober.evenly(prober.test, max_examples)
    encode = _encode_only(model, feature)
    test = prober.features(encode, prober.test, rows, (LABEL, FACTORS))
    codes = np.asarray(test["h"], np.float64)
    label = np.asarray(test[LABEL]) if prober.labelled and LABEL in test else None
    _check_codes(codes, feature)
    has_images = "image" in prober.test.spec.evaluated.arrays
    out = _of_codes(codes, active_threshold)
    if has_images:
        channels = prober.test.spec.evaluated.arrays["image"].shape[-1]
        out |= perturbed_codes.scores(
            model, prober, rows, codes,
            feature=feature,
            names=perturbations_lib.for_channels(perturbations, channels),
            strengths=strengths,
            local_strength=local_strength,
        )  # fmt: skip
    factors = test.get(FACTORS)
    names = _factor_names(prober.test, factors)
    out |= _of_clusters(codes, label, factors, names, clusters, neighbours, seed)
    if label is not None and (label >= 0).sum() >= _TOP_IMAGES:
        known = label >= 0
        out["unit_purity"] = units.purity(codes[known], label[known], _TOP_IMAGES)
        out["unit_purity_chance"] = units.chance(label[known], _TOP_IMAGES, seed)
    train_rows = _train_rows(prober, probe_examples)
    if factors is not None or label is not None:
        train = prober.features(encode, prober.train, train_rows, (LABEL, FACTORS))
        if factors is not None:
            out |= _disentanglement(disentanglement, train, test, seed)
        chosen_layers: tuple[str, ...] = ()
        if has_images and feature == "h" and model.method is not None:
            known_layers = layers_lib.names(model, prober.test.spec.evaluated.batch(1))
            chosen_layers = layers_lib.choose(known_layers, layers)
        out |= depth.scores(
            model, prober, Split(prober.train, train_rows, train), Split(prober.test, rows, test),
            factor_names=names,
            layers=chosen_layers,
            cells=cells,
        )  # fmt: skip
    if has_images and interpolation.can_decode(model, feature):
        out |= interpolation.scores(
            model, prober, rows, codes,
            train_rows=train_rows,
            num_pairs=pairs,
            neighbours=min(5, len(train_rows)),
            seed=seed,
        )  # fmt: skip
    return out


def check(
    known: Known, *, max_examples: int, clusters: int | None, neighbours: int, **options: Any
) -> str:
    """Checks the number of test examples.

    Raises:
      UserError: there are fewer of them than clusters or neighbours.
    """
    del options
    count = min(len(known.test), max_examples)
    _check_number(count, clusters or known.test.spec.num_classes or 2, neighbours)
    return ""


def measures(known: Known, **options: Any) -> tuple[str, ...]:
    """Names of the metrics that every data set with classes has, without those of families."""
    del known, options
    of_codes = ("lipschitz", "lipschitz_95", "invariance", "hoyer", "active", "dead", "rank",
                "rank_share", "nmi", "ari", "silhouette", "knn_purity", "unit_purity", "mig",
                "linear")  # fmt: skip
    return tuple(one.name for one in PROPERTIES if one.name in of_codes)


def outputs(*, layers: tuple[str, ...] | None, **options: Any) -> tuple[str, ...]:
    """Outputs of layers that the options name, which are checked before a run."""
    del options
    return tuple(f"{name}/patches" for name in layers or ())


def _encode_only(model: Model, feature: str) -> Any:
    return lambda batch: {"h": model.outputs(batch, [feature])[feature]}


def _check_codes(codes: np.ndarray, feature: str) -> None:
    if codes.ndim != 2:
        raise UserError(
            f"evaluation 'properties' takes features [n d], and {feature!r} has one vector a frame"
        )
    if not np.isfinite(codes).all():
        raise UserError(f"features {feature!r} are not finite; evaluate an earlier checkpoint")
    if len(codes) < 2 or response.pair_distance(codes) <= 1e-7 * np.sqrt(np.mean(codes**2)):
        raise UserError(
            f"features {feature!r} are the same for all {len(codes)} examples: a constant code has "
            "no properties"
        )


def _check_number(count: int, clusters: int, neighbours: int) -> None:
    if count < clusters:
        raise UserError(
            f"eval.properties has {count} test examples for {clusters} clusters; give it more "
            "(eval.properties.max_examples, eval.test_split) or set eval.properties.clusters"
        )
    if count <= neighbours:
        raise UserError(
            f"eval.properties.neighbours is {neighbours}, but there are {count} test examples; "
            f"use at most {count - 1}"
        )


def _of_codes(codes: np.ndarray, active_threshold: float) -> dict[str, float]:
    """Sparsity and rank."""
    singular = np.linalg.svd(codes - codes.mean(axis=0), compute_uv=False)
    rank = float(collapse.rankme(jnp.asarray(singular / singular.sum(), jnp.float32), epsilon=0.0))
    varies = codes.max(axis=0) > codes.min(axis=0)
    return {
        "hoyer": float(np.mean(sparsity.hoyer(codes))),
        "active": float(np.mean(sparsity.active(codes, active_threshold))),
        "dead": float(np.mean(~varies)),
        "rank": rank,
        "rank_share": rank / min(len(codes) - 1, codes.shape[1]),
    }


def _of_clusters(
    codes: np.ndarray,
    label: np.ndarray | None,
    factors: np.ndarray | None,
    names: Sequence[str],
    clusters: int | None,
    neighbours: int,
    seed: int,
) -> dict[str, float]:
    """Agreement of clusters with classes and with factors, silhouette and kNN purity."""
    known = np.ones(len(codes), bool) if label is None else label >= 0
    if (label is None and factors is None) or not known.any():
        return {}
    unit = clusters_lib.directions(codes[known])
    number = clusters
    if number is None:
        number = _CLASSES_WITHOUTLABELS if label is None else max(2, len(np.unique(label[known])))
    _check_number(len(unit), number, neighbours)
    assigned = clusters_lib.assign(unit, number, seed)
    out = {}
    if label is not None:
        classes = label[known]
        out["nmi"], out["ari"] = clusters_lib.agreement(assigned, classes)
        silhouette = clusters_lib.silhouette(unit, classes)
        if silhouette is not None:
            out["silhouette"] = silhouette
        out["knn_purity"] = clusters_lib.purity(unit, classes, neighbours)
    for name, column in zip(names, () if factors is None else factors[known].T, strict=True):
        if column.min() < column.max():
            (binned,) = as_classes([column[:, None]], _FACTOR_BINS)
            out[f"nmi_{name}"] = clusters_lib.agreement(assigned, binned[:, 0])[0]
    return out


def _factor_names(source: Any, factors: np.ndarray | None) -> tuple[str, ...]:
    if factors is None:
        return ()
    names = getattr(source, "factor_names", None)
    return tuple(names) if names else tuple(f"factor{i}" for i in range(factors.shape[1]))


def _disentanglement(
    chosen: Sequence[str], train: Mapping[str, Any], test: Mapping[str, Any], seed: int
) -> dict[str, float]:
    out = {}
    if "mig" in chosen:
        out["mig"] = mig.evaluate(test)["score"]
    if "sap" in chosen:
        out["sap"] = sap.evaluate(train, test, seed=seed)["score"]
    if "dci" in chosen:
        measured = dci.evaluate(train, test, seed=seed)
        out |= {
            f"dci_{name}": measured[name]
            for name in ("disentanglement", "completeness", "informativeness")
        }
    return out


def _train_rows(prober: Any, limit: int) -> np.ndarray:
    """Numbers of train examples, out of those that probes are fitted to."""
    subset = prober.train_subset()
    rows = np.arange(len(prober.train)) if subset is None else subset
    return rows[evenly(len(rows), limit)]
