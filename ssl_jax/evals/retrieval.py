"""Retrieval: how well the nearest examples share a query's class, and how well clusters do.

Every test example is a query, and the others are the gallery. The ranking and its scores are exact,
see `ssl_jax.evals.ranking`; queries without another example of their class are left out and
counted. `classes="train half"` of the data section makes these classes unseen ones.

    eval.test_split="query"  eval.retrieval.gallery="gallery"         another split is searched
    eval.retrieval.gallery_data="folder:photos"                       another domain is searched
    eval.retrieval.gallery_feature="h_photo"                          ... by an encoder of its own

Examples with a factor named `eval.retrieval.group`, such as the camera of `market1501`, are not
references of queries of the same class and the same group.

NMI and AMI compare the classes of the test split with clusters of its unit-length features, as many
as there are classes (spherical k-means, the best of `cluster_starts` starts). Both are normalised
by the arithmetic mean of the entropies (scikit-learn).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import clustering
from ssl_jax.config.fields import between, each, not_empty, positive
from ssl_jax.core.batch_axes import BATCH_AXES
from ssl_jax.core.errors import UserError
from ssl_jax.data import class_names
from ssl_jax.evals import ranking
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.model import Model
from ssl_jax.evals.ranking import Rows, Similarity

_ITERATIONS = 30  # of k-means

NEEDS = ("label",)
FITS = False
METRICS = {
    "recall_{k:d}": Metric(
        "R@{k}",
        "recall among the nearest",
        series="neighbours",
        sentence="recall of {model} among {number}",
    ),
    "map_r": Metric("MAP@R", "mean average precision at R"),
    "r_precision": Metric("R-precision", "R-precision", shown=False),
    "map": Metric("mAP", "mean average precision"),
    "map_trapezoid": Metric("mAP, trapezoid", shown=False),
    "nmi": Metric("NMI", "normalised mutual information of clusters and classes"),
    "ami": Metric("AMI", "adjusted mutual information of clusters and classes", shown=False),
    "queries": Metric("queries", unit="", better=None, shown=False),
    "queries_left_out": Metric("queries without a match", unit="", better=None, shown=False),
}


def evaluate_model(
    model: Model,
    prober: Any,
    *,
    feature: str = "h",
    seed: int = 0,
    ks: Annotated[
        tuple[int, ...], each(positive), not_empty, "The K of Recall@K, which is CMC at rank K."
    ] = (1, 2, 4, 8),
    similarity: Annotated[Similarity, "What neighbours are ranked by."] = "cosine",
    gallery: Annotated[
        str | None, "Split that is searched; None: the test split, each query without itself."
    ] = None,
    gallery_data: Annotated[
        str | None, "Another data set that is searched, of the same classes; None: the same."
    ] = None,
    gallery_feature: Annotated[
        str | None, "Output of the method that encodes the gallery; None: that of the queries."
    ] = None,
    group: Annotated[
        str, "Factor of the data that a query and its references must not share, if they have it."
    ] = "camera",
    cluster_starts: Annotated[
        int, between(0, 1000), "Starts of k-means for NMI and AMI; 0: no clusters."
    ] = 4,
) -> dict[str, float]:
    """The scores of the test split.

    Args:
      model: the model to evaluate.
      prober: provides the splits.
      feature: the output that encodes the queries, [n d].
      seed: of the first centroids of the clusters.
      ks, similarity, gallery, gallery_data, gallery_feature, group, cluster_starts: the options.

    Returns:
      Means over the queries with a reference, in [0, 1]; `queries`, their number, and
      `queries_left_out`, that of the others.

    Raises:
      UserError: no query has a reference, or the gallery has other classes or another width.
    """
    queries = _rows(model, prober, prober.test, feature, group)
    searched = None
    if gallery is not None or gallery_data is not None or gallery_feature is not None:
        elsewhere = prober if gallery_data is None else prober.on(gallery_data)
        source = elsewhere.source(gallery or prober.config.eval.test_split)
        searched = _rows(
            model, elsewhere, _same_classes(source, prober.test), gallery_feature or feature, group
        )
    metrics = of_rows(queries, searched, ks=ks, similarity=similarity)
    if cluster_starts:
        metrics |= clusters(queries, starts=cluster_starts, seed=seed)
    return metrics


def check(known: Known, **options: Any) -> str:
    """A note on queries that no example matches, as far as the labels are known."""
    labels = known.test.labels
    if labels is None or options["gallery"] is not None or options["gallery_data"] is not None:
        return ""
    counts = np.bincount(labels[labels >= 0])
    alone = int((counts == 1).sum())
    if alone == int((counts > 0).sum()):
        raise UserError(f"{known.test.name} has no two examples of one class")
    if not alone:
        return ""
    return f"retrieval: {alone} examples without another of their class are left out as queries"


def splits(*, gallery: str | None, gallery_data: str | None, **options: Any) -> dict[str, str]:
    """The split of the run's data that is searched."""
    del options
    return {} if gallery is None or gallery_data is not None else {"gallery": gallery}


def measures(
    known: Known, *, ks: Sequence[int], cluster_starts: int, **options: Any
) -> tuple[str, ...]:
    """Names of the metrics that `evaluate_model` returns."""
    del known, options
    names = [f"recall_{k}" for k in ks] + [name for name in METRICS if "{" not in name]
    return tuple(name for name in names if cluster_starts or name not in ("nmi", "ami"))


def of_rows(
    queries: Rows,
    gallery: Rows | None = None,
    *,
    ks: Sequence[int] = (1, 2, 4, 8),
    similarity: Similarity = "cosine",
    devices: Sequence[jax.Device] | None = None,
) -> dict[str, float]:
    """The scores of rankings, see `ranking.score`; arguments as there, results as METRICS.

    Raises:
      UserError: no query has a reference.
    """
    scores = ranking.score(queries, gallery, ks=ks, similarity=similarity, devices=devices)
    matched = scores.references > 0
    if not matched.any():
        where = "another test example" if gallery is None else "an example of the gallery"
        raise UserError(f"no query has the class of {where}; retrieval has nothing to find")
    means = {
        "r_precision": scores.r_precision,
        "map_r": scores.map_at_r,
        "map": scores.average_precision,
        "map_trapezoid": scores.trapezoid,
    }
    metrics = {f"recall_{k}": float(scores.recall[matched, i].mean()) for i, k in enumerate(ks)}
    metrics |= {name: float(values[matched].mean()) for name, values in means.items()}
    return metrics | {
        "queries": float(matched.sum()),
        "queries_left_out": float((~matched).sum()),
    }


def clusters(
    rows: Rows,
    *,
    starts: int = 4,
    seed: int = 0,
    devices: Sequence[jax.Device] | None = None,
) -> dict[str, float]:
    """Mutual information of the classes and of as many clusters.

    Args:
      rows: the examples.
      starts: runs of k-means; the one with the highest mean similarity to its centroids counts.
      seed: draws the first centroids.
      devices: over which the rows are split; default: those of this process.

    Returns:
      `nmi` and `ami`.
    """
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

    number = len(np.unique(rows.label))
    assigned = cluster(rows.h, number, starts=starts, seed=seed, devices=devices)
    return {
        "nmi": float(normalized_mutual_info_score(rows.label, assigned)),
        "ami": float(adjusted_mutual_info_score(rows.label, assigned)),
    }


def cluster(
    h: np.ndarray,
    number: int,
    *,
    starts: int,
    seed: int,
    devices: Sequence[jax.Device] | None = None,
) -> np.ndarray:
    """Spherical k-means of features.

    Args:
      h: float [n d].
      number: of clusters, at most n.
      starts, seed, devices: as of `clusters`.

    Returns:
      int32 [n], the cluster of each row.
    """
    mesh = _batch_mesh(jax.local_devices() if devices is None else devices)
    x = ranking.unit_rows(h)
    padding = -len(x) % mesh.size
    split = NamedSharding(mesh, P("data"))
    padded = jax.device_put(np.pad(x, ((0, padding), (0, 0))), split)
    mask = jax.device_put(np.arange(len(x) + padding) < len(x), split)
    best, assigned = -np.inf, np.zeros(len(x), np.int32)
    for start in range(starts):
        key = jax.random.fold_in(jax.random.key(seed), start)
        with jax.set_mesh(mesh):
            clusters = jax.device_get(
                clustering.spherical_kmeans(
                    padded, mask, key=key, num_clusters=number, iterations=_ITERATIONS
                )
            )
        own = clusters.assignments[: len(x)]
        fit = float(np.einsum("nd,nd->", x, clusters.centroids[own], dtype=np.float64))
        if fit > best:
            best, assigned = fit, own
    return assigned


def _batch_mesh(devices: Sequence[jax.Device]) -> jax.sharding.Mesh:
    auto = (jax.sharding.AxisType.Auto,)
    return jax.sharding.Mesh(np.asarray(devices), BATCH_AXES[:1], axis_types=auto)


def _rows(model: Model, prober: Any, source: Any, feature: str, group: str) -> Rows:
    """The labelled examples of a source.

    Raises:
      UserError: there are none, or the model lacks the output, or it is not one finite vector.
    """

    def encode(batch: Any) -> dict[str, jax.Array]:
        outputs = model.outputs(batch, (feature,))
        if feature not in outputs:
            raise UserError(
                f"retrieval needs the output {feature!r}, but this method has "
                f"{', '.join(sorted(outputs))}"
            )
        return {"h": outputs[feature]}

    factors = tuple(getattr(source, "factor_names", None) or ())
    targets = ("label", "factors") if group in factors else ("label",)
    rows = prober.features(encode, source, targets=targets)
    h, label = rows["h"], rows["label"]
    if h.ndim != 2:
        raise UserError(f"retrieval takes one vector an example, and {feature!r} is {h.shape}")
    if bad := int((~np.isfinite(h).all(axis=1)).sum()):
        raise UserError(f"features {feature!r} of {bad} of {len(h)} examples are not finite")
    labelled = label >= 0
    if not labelled.any():
        raise UserError(f"{source.name} has no labels, and retrieval needs them")
    groups = None
    if group in factors:
        groups = np.rint(rows["factors"][labelled, factors.index(group)]).astype(np.int32)
    return Rows(h[labelled], label[labelled], groups)


def _same_classes(source: Any, queries: Any) -> Any:
    """A gallery with the classes numbered as those of the queries.

    Raises:
      UserError: both know the names of their classes, and they differ.
    """
    class_names.check_same(
        queries.class_names, source.class_names, source.name,
        "a gallery has the classes of the queries",
    )  # fmt: skip
    return class_names.matched(source, queries.class_names)
