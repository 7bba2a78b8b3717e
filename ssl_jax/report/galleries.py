"""The sections that show points and images: maps, neighbours."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
from absl import logging
from markupsafe import Markup

from ssl_jax.report import figures, maps, retrieval
from ssl_jax.report.examples import Examples
from ssl_jax.report.images import Picture
from ssl_jax.report.inputs import ReportInputs
from ssl_jax.report.plain_text import short

NUM_QUERIES = 10
NUM_NEIGHBOURS = 8
LEAST_POINTS = 5  # minimum number of points in a map
TILE_SIDE = 64  # maximum side of a stored picture in pixels


# ---------------------------------------------------------------------------------------- maps


@dataclasses.dataclass(frozen=True)
class Map:
    """A drawing and its title."""

    title: str
    svg: Markup


@dataclasses.dataclass(frozen=True)
class LegendEntry:
    """A class of the maps: its number among the coloured ones, its name, and how it is drawn."""

    slot: int
    name: str

    @property
    def colour(self) -> str:
        """As a CSS value."""
        return f"var(--c{self.slot % figures.NUM_CLASS_COLOURS})"

    @property
    def is_triangle(self) -> bool:
        """Whether its points are triangles, not discs."""
        return self.slot >= figures.NUM_CLASS_COLOURS


@dataclasses.dataclass(frozen=True)
class Maps:
    """The section of the maps.

    Attributes:
      maps: empty if there are too few examples.
      caption: the projection and the examples.
      dropped: a sentence about omitted examples, or "".
      legend: the classes that have a colour.
    """

    maps: tuple[Map, ...]
    caption: str
    dropped: str
    legend: tuple[LegendEntry, ...] = ()


def map_section(inputs: ReportInputs) -> Maps | None:
    """Maps of h and of raw pixels to the plane, coloured by label; None without examples."""
    examples = Examples.from_inputs(inputs)
    if examples is None:
        return None
    if len(examples.labels) < LEAST_POINTS:
        return Maps((), "", examples.dropped)
    how = _projection(inputs.projection)
    coloured = maps.coloured_classes(examples.labels)
    points = maps.choose_points(examples.labels, coloured, inputs.seed)
    labels = examples.labels[points]
    classes = [(inputs.class_name(label), labels == label) for label in coloured]
    spaces = [("h", "Features h of the encoder", examples.embedding[points])]
    if examples.projected is not None:
        spaces.append(("z", "Projection z = g(h)", examples.projected[points]))
    if retrieval.is_measured(inputs) and coloured:
        spaces = [(name, title, _with_means(x, classes)) for name, title, x in spaces]
    if examples.pixels is not None:
        vectors = maps.pixel_vectors(examples.pixels[points])
        spaces.append(("pixels", "Raw pixels", vectors))
    planes = maps.project_all([x for _, _, x in spaces], how=how, seed=inputs.seed)
    count = len(points)
    drawn = tuple(
        Map(
            title,
            figures.scatter_map(
                f"map-{name}", f"{title}, map", plane[:count], classes, centres=plane[count:]
            ),
        )
        for (name, title, _), plane in zip(spaces, planes, strict=True)
    )
    perplexity = maps.perplexity(len(points))
    method = {"tsne": f"t-SNE (perplexity {perplexity:.3g})", "umap": "UMAP"}[how]
    caption = f"{method} of {examples.in_words(inputs, len(points))}"
    if coloured:
        caption += ", coloured by label"
        caption += "; diamonds: means of classes" * (len(spaces[0][2]) > count)
        all_classes = len(np.unique(examples.labels[examples.labels >= 0]))
        if all_classes > len(coloured):
            caption += f"; the {len(coloured)} most frequent of {all_classes} classes have a colour"
    legend = tuple(LegendEntry(slot, short(name, 48)) for slot, (name, _) in enumerate(classes))
    return Maps(drawn, caption, examples.dropped, legend)


def _with_means(x: np.ndarray, classes: list[tuple[str, np.ndarray]]) -> np.ndarray:
    """The vectors [n d], and after them the mean of each class that has points."""
    means = [x[members].mean(axis=0) for _, members in classes if members.any()]
    return np.concatenate([x, means])


def _projection(name: str) -> str:
    """The projection to use: t-SNE instead of UMAP if umap-learn is not installed."""
    if name == "umap" and importlib.util.find_spec("umap") is None:
        logging.warning("umap-learn is not installed (pip install 'ssl_jax[umap]'); drawing t-SNE")
        return "tsne"
    return name


# ---------------------------------------------------------------------------------- neighbours


@dataclasses.dataclass(frozen=True)
class _Space:
    """Vectors [n d] of the examples, with their name and their distance."""

    name: str
    distance: str
    vectors: np.ndarray
    cosine: bool

    def neighbours(self, queries: np.ndarray, count: int) -> maps.Neighbours:
        return maps.neighbours(self.vectors, queries, count, cosine=self.cosine)


@dataclasses.dataclass(frozen=True)
class Tile:
    """A neighbour, and whether it has the label of the query; None where one has no label."""

    picture: Picture
    agrees: bool | None


@dataclasses.dataclass(frozen=True)
class Strip:
    """The neighbours of a query in one space, and how many have its label ("" without labels)."""

    space: str
    tiles: tuple[Tile, ...]
    count: str


@dataclasses.dataclass(frozen=True)
class Query:
    """An image, the name of its class ("" without labels), and its neighbours in each space."""

    picture: Picture
    name: str
    strips: tuple[Strip, ...]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How often the `k` nearest neighbours have the label of the query, in %, as text.

    Attributes:
      k: number of neighbours of each example.
      pixels, features: the share in each space.
      examples: the examples of the mean, in words.
    """

    k: int
    pixels: str
    features: str
    examples: str


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The section of the nearest neighbours.

    Attributes:
      agreement: None without labels.
      dropped: a sentence about omitted examples, or "".
      spaces: the columns.
      queries: the rows.
    """

    agreement: Agreement | None
    dropped: str
    spaces: tuple[_Space, ...]
    queries: tuple[Query, ...]


def neighbour_gallery(inputs: ReportInputs) -> Neighbours | None:
    """Some images and their nearest neighbours, in pixel space and in feature space.

    None without images or with fewer than two.
    """
    examples = Examples.from_inputs(inputs)
    if examples is None or examples.pixels is None or len(examples.labels) < 2:
        return None
    labels = examples.labels if examples.labelled else None
    queries = maps.choose_queries(labels, len(examples.labels), NUM_QUERIES, inputs.seed)
    spaces = (
        _Space("raw pixels", "Euclidean distance", maps.pixel_vectors(examples.pixels), False),
        _Space("features h", "cosine similarity", examples.embedding, True),
    )
    nearest = [space.neighbours(queries, NUM_NEIGHBOURS).nearest for space in spaces]
    thumbnails = _Thumbnails(inputs, examples)
    rows = tuple(
        Query(
            thumbnails.picture(query),
            short(inputs.class_name(int(labels[query])), 20) if labels is not None else "",
            tuple(
                thumbnails.strip(space.name, query, near[row])
                for space, near in zip(spaces, nearest, strict=True)
            ),
        )
        for row, query in enumerate(queries.tolist())
    )
    agreement = _agreement(inputs, examples, spaces) if examples.labelled else None
    return Neighbours(agreement, examples.dropped, spaces, rows)


def _agreement(inputs: ReportInputs, examples: Examples, spaces: tuple[_Space, ...]) -> Agreement:
    """How often neighbours share a label, over all examples or at most as many as in a map."""
    k = min(NUM_NEIGHBOURS, len(examples.labels) - 1)
    labelled = np.flatnonzero(examples.labels >= 0)
    queries = np.random.default_rng(inputs.seed).permutation(labelled)[: maps.MAX_POINTS]
    shares = [
        f"{100 * np.nanmean(space.neighbours(queries, k).agreement(examples.labels)):.1f}%"
        for space in spaces
    ]
    return Agreement(k, *shares, examples.in_words(inputs, len(queries)))


class _Thumbnails:
    """Pictures of the examples, encoded once each."""

    def __init__(self, inputs: ReportInputs, examples: Examples):
        self._inputs, self._examples = inputs, examples
        self._pictures: dict[int, Picture] = {}

    def picture(self, index: int) -> Picture:
        if index not in self._pictures:
            label = int(self._examples.labels[index])
            name = self._inputs.class_name(label) if self._examples.labelled else "example"
            self._pictures[index] = Picture.from_array(
                self._examples.pixels[index], name, TILE_SIDE
            )
        return self._pictures[index]

    def strip(self, space: str, query: int, nearest: np.ndarray) -> Strip:
        labels = self._examples.labels
        tiles = tuple(Tile(self.picture(i), self._agrees(query, i)) for i in nearest.tolist())
        hits = int((labels[nearest] == labels[query]).sum())
        return Strip(space, tiles, f"{hits}/{len(nearest)}" if labels[query] >= 0 else "")

    def _agrees(self, query: int, index: int) -> bool | None:
        labels = self._examples.labels
        if labels[query] < 0 or labels[index] < 0:
            return None
        return bool(labels[query] == labels[index])
