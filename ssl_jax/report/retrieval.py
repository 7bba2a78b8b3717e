"""The section on retrieval: how similarities order the examples of the report."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from ssl_jax.evals import roc
from ssl_jax.report import figures, maps
from ssl_jax.report.curves import Chart, KeyEntry
from ssl_jax.report.examples import Examples
from ssl_jax.report.figures import Line
from ssl_jax.report.inputs import ReportInputs

_EVALUATIONS = ("retrieval/", "verification/")
_NEIGHBOURS = 32  # last K of the curve of recall
_RECALLS = np.linspace(0, 1, 41)
_BINS = 60
_SIZE = (540, 280)


class Orders(NamedTuple):
    """How one space orders the other examples for each query with an example of its class.

    Attributes:
      relevant: bool [q n], by rank; examples of other classes come first among equals.
      same, different: float, similarities of the pairs of one class and of two.
    """

    relevant: np.ndarray
    same: np.ndarray
    different: np.ndarray


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Charts, and the examples that they are about."""

    charts: list[Chart]
    note: str


def is_measured(inputs: ReportInputs) -> bool:
    """Whether an evaluation of retrieval or verification has values."""
    return any(
        key.removeprefix("eval/").startswith(_EVALUATIONS)
        for values in inputs.results.values()
        for key in values
    )


def section(inputs: ReportInputs) -> Retrieval | None:
    """The curves of the report's examples; None without such an evaluation or without classes."""
    examples = Examples.from_inputs(inputs)
    if examples is None or not is_measured(inputs):
        return None
    chosen = np.flatnonzero(examples.labels >= 0)
    chosen = np.sort(np.random.default_rng(inputs.seed).permutation(chosen)[: maps.MAX_POINTS])
    if not len(chosen):
        return None
    labels = examples.labels[chosen]
    spaces = [("features h", orders(examples.embedding[chosen], labels))]
    if examples.pixels is not None:
        spaces.append(("raw pixels", orders(maps.pixel_vectors(examples.pixels[chosen]), labels)))
    if spaces[0][1] is None:
        return None
    charts = [
        _chart("recall", "Recall among the K nearest", spaces, recall_curve, "K"),
        _chart("precision", "Precision over recall", spaces, precision_curve, "recall"),
        _chart(
            "roc",
            "Pairs of one class over pairs of two accepted",
            spaces,
            roc_curve,
            "pairs of two classes",
        ),
        _similarities(spaces[0][1]),
    ]
    return Retrieval(charts, _note(inputs, examples, len(chosen), len(spaces[0][1].relevant)))


def _note(inputs: ReportInputs, examples: Examples, count: int, queries: int) -> str:
    alone = count - queries
    left_out = f" {alone} without another example of their class are no queries." if alone else ""
    return (
        f"Each of {examples.in_words(inputs, count)} is a query, and the others are ranked by "
        f"cosine similarity.{left_out} Precision at a recall: the highest at that recall or above, "
        "mean over queries. The pairs of the other two charts are all pairs of these examples. The "
        "table above is about the whole split."
    )


def orders(vectors: np.ndarray, labels: np.ndarray) -> Orders | None:
    """Ranks the examples by cosine similarity to each of them.

    Args:
      vectors: float [n d].
      labels: int [n].

    Returns:
      The orders; None unless there are pairs of one class and pairs of two.
    """
    same = labels[:, None] == labels
    np.fill_diagonal(same, False)
    queries = same.any(axis=1)
    upper = np.triu(np.ones_like(same), 1)
    if not queries.any() or (same | ~upper).all():
        return None
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    similarity = np.einsum("qd,nd->qn", unit, unit, optimize=True).astype(np.float64)
    pairs = similarity[upper & same], similarity[upper & ~same]
    np.fill_diagonal(similarity, -np.inf)
    order = np.lexsort((same, -similarity), axis=1)[:, :-1]  # the query itself is last
    return Orders(np.take_along_axis(same, order, axis=1)[queries], *pairs)


def recall_curve(ordered: Orders) -> tuple[np.ndarray, np.ndarray]:
    """K, and the share of queries with an example of their class among the K nearest."""
    first = ordered.relevant.argmax(axis=1)
    k = np.arange(1, min(_NEIGHBOURS, ordered.relevant.shape[1]) + 1)
    return k.astype(float), (first[:, None] < k).mean(axis=0)


def precision_curve(ordered: Orders) -> tuple[np.ndarray, np.ndarray]:
    """Recalls, and the mean over queries of the highest precision at that recall or above."""
    hits = ordered.relevant.cumsum(axis=1)
    precision = hits / np.arange(1, hits.shape[1] + 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    needed = np.maximum(np.ceil(_RECALLS * hits[:, -1:] - 1e-9), 1)  # (q, r) hits
    at = (hits[:, None, :] < needed[:, :, None]).sum(axis=2)
    return _RECALLS, np.take_along_axis(best, at, axis=1).mean(axis=0)


def roc_curve(ordered: Orders) -> tuple[np.ndarray, np.ndarray]:
    """Shares of pairs of two classes and of one class that a threshold accepts."""
    _, false, true = roc.curve(ordered.same, ordered.different)
    x = np.linspace(0, 1, 201)
    return x, np.interp(x, false, true)


def _chart(name, title, spaces, curve, x_label) -> Chart:
    """A chart with a line for each space; the encoder, which comes first, has the first colour."""
    lines = [
        Line(space, *curve(ordered), slot=0 if slot == 0 else figures.NUM_SERIES - 1)
        for slot, (space, ordered) in enumerate(spaces)
        if ordered is not None
    ]
    labels = {line.label: line.label for line in lines}
    if name == "roc":
        labels = {
            space: f"{space}, area {roc.area(ordered.same, ordered.different):.3f}"
            for space, ordered in spaces
            if ordered is not None
        }
    svg = figures.line_chart(
        f"retrieval-{name}", title, lines, percent=True, x_label=x_label, number_x=name != "recall",
        y_limits=None if name == "recall" else (0.0, 1.03), size=_SIZE,
    )  # fmt: skip
    return Chart(title, svg, tuple(KeyEntry(labels[line.label], line.slot) for line in lines))


def _similarities(ordered: Orders) -> Chart:
    """Histograms of the similarities of pairs of one class and of two."""
    low, high = (float(end) for end in (ordered.different.min(), ordered.different.max()))
    low, high = min(low, ordered.same.min()), max(high, ordered.same.max())
    pad = 0.01 + 0.02 * (high - low)
    edges = np.linspace(low - pad, high + pad, _BINS + 1)
    groups = [("same class", ordered.same, 0), ("different classes", ordered.different, 1)]

    def draw(axes):
        for _, values, slot in groups:
            density, _ = np.histogram(values, edges, density=True)
            colour = figures.series_colour(slot)
            axes.stairs(density, edges, fill=True, color=colour, alpha=0.25, lw=0)
            axes.stairs(density, edges, color=colour, lw=1.6)
        axes.set_ylim(bottom=0)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("cosine similarity", fontsize=11)
        axes.margins(x=0.01)

    title = "Similarity of pairs, features h"
    svg = figures.svg_figure("retrieval-similarities", title, draw, _SIZE)
    return Chart(title, svg, tuple(KeyEntry(label, slot) for label, _, slot in groups))
