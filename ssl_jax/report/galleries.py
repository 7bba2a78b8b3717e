"""The parts of the page that show points and images: maps, neighbours."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
from absl import logging

from ssl_jax.report import figures, images, maps
from ssl_jax.report.inputs import ReportInputs
from ssl_jax.report.markup import esc, short

NUM_QUERIES = 10
NUM_NEIGHBOURS = 8
LEAST_POINTS = 5  # of a map
TILE_SIDE = 64  # pixels stored of a picture at most

# Pointing at a class in the legend dims the others, in both maps.
LEGEND_STYLE = "".join(
    f'#map:has([data-class="{i}"]:hover) g[id*="-class-"]:not([id$="-class-{i}"]), '
    f'#map:has([data-class="{i}"]:focus) g[id*="-class-"]:not([id$="-class-{i}"])'
    " { opacity: 0.1; }\n"
    for i in range(maps.MAX_COLOURED_CLASSES)
)


@dataclasses.dataclass(frozen=True)
class _Examples:
    """The examples whose representation is finite; labels are -1 where there are none."""

    embedding: np.ndarray  # [n d]
    pixels: np.ndarray | None  # [n h w c]
    labels: np.ndarray  # [n]
    dropped: int

    @classmethod
    def of(cls, inputs: ReportInputs) -> _Examples | None:
        if inputs.embedding is None:
            return None
        embedding = np.asarray(inputs.embedding, np.float32)
        finite = np.isfinite(embedding).all(axis=1)
        labels = np.full(len(embedding), -1) if inputs.labels is None else inputs.labels
        pixels = None if inputs.pixels is None else np.asarray(inputs.pixels)[finite]
        return cls(embedding[finite], pixels, np.asarray(labels)[finite], int((~finite).sum()))

    @property
    def labelled(self) -> bool:
        return bool((self.labels >= 0).any())


def _dropped_note(examples: _Examples) -> str:
    n = examples.dropped
    return f" {n} representations are not finite and left out." if n else ""


# ---------------------------------------------------------------------------------------- maps


def maps_of(inputs: ReportInputs) -> str:
    """h and raw pixels, each mapped to the plane, coloured by label."""
    examples = _Examples.of(inputs)
    if examples is None:
        return ""
    if len(examples.labels) < LEAST_POINTS:
        return f"<p>Too few examples for a map.{_dropped_note(examples)}</p>"
    how = _projection(inputs.projection)
    coloured = maps.coloured_classes(examples.labels)
    points = maps.choose_points(examples.labels, coloured, inputs.seed)
    labels = examples.labels[points]
    classes = [(inputs.class_name(label), labels == label) for label in coloured]
    spaces = [("h", "Features h of the encoder", examples.embedding[points])]
    if examples.pixels is not None:
        vectors = maps.pixel_vectors(examples.pixels[points])
        spaces.append(("pixels", "Raw pixels", vectors))
    drawn = []
    planes = maps.project_all([x for _, _, x in spaces], how=how, seed=inputs.seed)
    for (name, title, _), y in zip(spaces, planes, strict=True):
        svg = figures.scatter_map(f"map-{name}", f"{title}, map", y, classes)
        drawn.append(f"<figure><figcaption>{title}</figcaption>{svg}</figure>")
    perplexity = maps.perplexity(len(points))
    method = {"tsne": f"t-SNE (perplexity {perplexity:.3g})", "umap": "UMAP"}[how]
    caption = f"{method} of {_which(inputs, examples, len(points))}"
    if coloured:
        caption += ", coloured by label"
        all_classes = len(np.unique(examples.labels[examples.labels >= 0]))
        if all_classes > len(coloured):
            caption += f"; the {len(coloured)} most frequent of {all_classes} classes have a colour"
    return (
        f'<p class="note">{caption}.{_dropped_note(examples)} Distances between far groups mean '
        f'nothing.</p><div class="maps">{"".join(drawn)}</div>{_legend(classes)}'
    )


def _which(inputs: ReportInputs, examples: _Examples, taken: int) -> str:
    """The examples in words, `taken` of them."""
    n = len(examples.labels)
    if not inputs.split:
        return f"{taken} examples"
    return esc(inputs.split) + (f", {taken} of them drawn at random" if taken < n else "")


def _projection(wanted: str) -> str:
    if wanted == "umap" and importlib.util.find_spec("umap") is None:
        logging.warning("umap-learn is not installed (pip install 'ssl_jax[umap]'); drawing t-SNE")
        return "tsne"
    return wanted


def _legend(classes: list[tuple[str, np.ndarray]]) -> str:
    items = []
    for slot, (name, _) in enumerate(classes):
        shape = "" if slot < figures.NUM_CLASS_COLOURS else ' class="tri"'
        colour = f"var(--c{slot % figures.NUM_CLASS_COLOURS})"
        items.append(
            f'<li data-class="{slot}" tabindex="0">'
            f'<i{shape} style="background: {colour}"></i>{esc(short(name, 48))}</li>'
        )
    return f'<ul class="legend">{"".join(items)}</ul>' if items else ""


# ---------------------------------------------------------------------------------- neighbours


def neighbour_gallery(inputs: ReportInputs) -> str:
    """Some images and their nearest neighbours, in pixel space and in feature space."""
    examples = _Examples.of(inputs)
    if examples is None or examples.pixels is None or len(examples.labels) < 2:
        return ""
    labels = examples.labels if examples.labelled else None
    n = len(examples.labels)
    queries = maps.choose_queries(labels, n, NUM_QUERIES, inputs.seed)
    spaces = [
        ("raw pixels", "Euclidean distance", maps.pixel_vectors(examples.pixels), False),
        ("features h", "cosine similarity", examples.embedding, True),
    ]
    found = [maps.neighbours(x, queries, NUM_NEIGHBOURS, cosine=cos) for _, _, x, cos in spaces]
    thumbnails = _Thumbnails(inputs, examples, TILE_SIDE)
    heads = "".join(f"<div>{name} <small>({by})</small></div>" for name, by, _, _ in spaces)
    rows = [f'<div class="query head"><div class="asked">query</div>{heads}</div>']
    for row, query in enumerate(queries):
        strips = []
        for (name, _, _, _), near in zip(spaces, found, strict=True):
            tiles = "".join(thumbnails.tile(query, i) for i in near.nearest[row])
            count = thumbnails.count(query, near.nearest[row])
            strips.append(
                f'<div><p class="small-label">{name}</p>'
                f'<div class="strip">{tiles}<span class="count">{count}</span></div></div>'
            )
        name = inputs.class_name(int(labels[query])) if labels is not None else ""
        asked = f'<div class="asked">{thumbnails.image(query)}{esc(short(name, 20))}</div>'
        rows.append(f'<div class="query">{asked}{"".join(strips)}</div>')
    return _agreement(inputs, examples, spaces) + f'<div class="gallery">{"".join(rows)}</div>'


def _agreement(inputs: ReportInputs, examples: _Examples, spaces: list) -> str:
    """What the gallery shows, and over all examples how often neighbours share a label."""
    k = min(NUM_NEIGHBOURS, len(examples.labels) - 1)
    text = "Queries are drawn at random, not picked; the nearest neighbour comes first."
    if examples.labelled:
        everyone = np.flatnonzero(examples.labels >= 0)
        some = np.random.default_rng(inputs.seed).permutation(everyone)[: maps.MAX_POINTS]
        shares = []
        for _, _, x, cosine in spaces:
            near = maps.neighbours(x, some, k, cosine=cosine)
            shares.append(f"<b>{100 * np.nanmean(near.agreement(examples.labels)):.1f}%</b>")
        text = (
            f"Of the {k} nearest neighbours of an image, {shares[0]} have its label in pixel space "
            f"and {shares[1]} in feature space (mean over "
            f"{_which(inputs, examples, len(some))}). Below, a neighbour with another "
            "label than the query's is marked ✗. Queries are drawn at random, not picked; the "
            "nearest neighbour comes first."
        )
    return f"<p>{text}{_dropped_note(examples)}</p>"


class _Thumbnails:
    """Pictures of the examples, encoded once each."""

    def __init__(self, inputs: ReportInputs, examples: _Examples, side: int):
        self._inputs, self._examples, self._side = inputs, examples, side
        self._uris: dict[int, str] = {}

    def image(self, index: int) -> str:
        index = int(index)
        if index not in self._uris:
            self._uris[index] = images.data_uri(self._examples.pixels[index], self._side)
        label = int(self._examples.labels[index])
        name = esc(self._inputs.class_name(label)) if self._examples.labelled else "example"
        return _img(self._uris[index], name, self._examples.pixels.shape[1:3])

    def count(self, query: int, nearest: np.ndarray) -> str:
        labels = self._examples.labels
        if labels[query] < 0:
            return ""
        return f"{int((labels[nearest] == labels[query]).sum())}/{len(nearest)}"

    def tile(self, query: int, index: int) -> str:
        labels = self._examples.labels
        mark = ""
        if labels[query] >= 0 and labels[index] >= 0:
            mark = " yes" if labels[query] == labels[index] else " no"
        return f'<div class="tile{mark}">{self.image(index)}</div>'


def _img(uri: str, alt: str, shape: tuple[int, int]) -> str:
    small = ' class="small"' if max(shape) <= images.LOSSLESS_SIDE else ""
    return f'<img{small} src="{uri}" alt="{alt}" title="{alt}">'
