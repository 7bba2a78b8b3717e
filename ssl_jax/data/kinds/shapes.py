"""`shapes`: one coloured shape on a coloured ground, drawn from known factors.

Any number of examples at any size, without a download. What is drawn is a pure function of (seed,
split, index). All shapes of one `size` cover the same area, and every other factor is independent
of the shape, so that single pixels say little about it: the shape has to be seen as one.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import numpy as np

from ssl_jax.config.fields import positive, positive_fraction
from ssl_jax.core.errors import UserError
from ssl_jax.data import counter
from ssl_jax.data.image import Canvas
from ssl_jax.data.image_kind import ImageKind
from ssl_jax.data.image_source import ArraySource, ImageSource
from ssl_jax.data.kind import Facts
from ssl_jax.data.masks import Masks
from ssl_jax.data.request import Request
from ssl_jax.data.source import Arrays, Problem

SHAPES = ("disc", "square", "triangle", "star", "cross", "ring")
# Factor -> range from which it is drawn uniformly. Lengths are fractions of the image's side.
FACTORS = {
    "shape": (0, len(SHAPES)),  # an integer, index into SHAPES
    "hue": (0.0, 1.0),
    "size": (0.12, 0.22),  # radius of the disc of equal area
    "angle": (0.0, 2 * np.pi),  # radians
    "x": (0.35, 0.65),  # of the centre; outlines stay inside the image
    "y": (0.35, 0.65),
    "background": (0.0, 1.0),  # hue of the ground
}
MASK_CLASSES = ("ground", *SHAPES)
SPLITS = ("train", "test")
IMAGE_SIZE = 32
CHANNELS = 3
NUM_GENERATED = 10_000
BINS = 8  # classes of a continuous factor used as label
# Shape and hue (of 4) by class, first those whose sum is even: both halves have all of either.
COMBINATIONS = sorted(
    itertools.product(range(len(SHAPES)), range(BINS // 2)), key=lambda pair: sum(pair) % 2
)
CLASS_NAMES = {
    "shape": SHAPES,
    "combination": tuple(f"{SHAPES[shape]} of hue {hue}" for shape, hue in COMBINATIONS),
}
_IN_MEMORY_BYTES = 1 << 30
_BLOCK_PIXELS = 1 << 18  # drawn at a time: its temporaries fit a processor's cache


def sizes(num_generated: int = NUM_GENERATED) -> dict[str, int]:
    """Examples of each split: `test` is a fifth of `train` on top."""
    return {"train": num_generated, "test": max(num_generated // 5, 1)}


def num_classes(label: str = "shape") -> int:
    """Classes when the factor `label`, or the combination, is what is to be recognised."""
    return {"shape": len(SHAPES), "combination": len(COMBINATIONS)}.get(label, BINS)


def dataset(
    location: str,
    request: Request,
    *,
    num_generated: Annotated[
        int, positive, "Examples of the train split; test is a fifth of it on top."
    ] = NUM_GENERATED,
    label: Annotated[
        Literal["shape", "hue", "size", "angle", "x", "y", "background", "combination"],
        "Factor that is the label; a continuous one is cut into 8 equal bins. combination: shape "
        "and hue (of 4), so that each half of the 24 classes has every shape and every hue.",
    ] = "shape",
    rarest: Annotated[
        float,
        positive_fraction,
        "Train images of the last class for each one of the first; those between form a geometric "
        "series, a long tail. The test split has as many of every class.",
    ] = 1.0,
) -> Shapes:
    """The data set; `location` is empty.

    Raises:
      UserError: a long tail of combinations.
    """
    del location
    request.refuse_host_crops("shapes")
    if rarest < 1 and label == "combination":
        raise UserError(
            f"data.options.rarest {rarest:g} is for the classes of one factor, and the label is "
            "'combination'; choose another data.options.label, or leave rarest unset"
        )
    canvas = request.canvas(IMAGE_SIZE, CHANNELS)
    return Shapes(canvas, num_generated, label, request.seed, rarest)


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The drawn shapes, in both splits."""

    canvas: Canvas
    num_generated: int
    label: str
    seed: int
    rarest: float = 1.0
    splits = SPLITS

    def source(self, split: str) -> ImageSource:
        indices = np.arange(sizes(self.num_generated)[split])
        tail = (self.label, self.rarest) if split == "train" and self.rarest < 1 else None
        factors = draw_factors(self.seed, split, indices, tail)
        described = self._described(split, factors)
        if len(indices) * np.prod(self.canvas.shapes["image"]) > _IN_MEMORY_BYTES:
            return DrawnSource(**described)
        images = render(factors, self.canvas.size, self.canvas.channels)
        return ArraySource(images=images, **described)

    def rendered(self, factors: np.ndarray) -> DrawnSource:
        """The images with these factors, float [n f] in the order of FACTORS."""
        return DrawnSource(**self._described("rendered", np.asarray(factors, np.float32)))

    def _described(self, name: str, factors: np.ndarray) -> dict[str, Any]:
        return {
            "name": f"shapes[{name}]", "canvas": self.canvas,
            "labels": label_of(factors, self.label), "num_classes": num_classes(self.label),
            "class_names": CLASS_NAMES.get(self.label),
            "factors": factors, "factor_names": tuple(FACTORS), "renderer": ShapeRenderer(self),
            "masks": Masks(
                MASK_CLASSES, factors, functools.partial(render_masks, size=self.canvas.size)
            ),
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ShapeRenderer:
    """Renders shapes with any factors, see `image_source.Renderer`."""

    shapes: Shapes

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return _in_ranges(rng.random((count, len(FACTORS))))

    def source(self, factors: np.ndarray) -> DrawnSource:
        return self.shapes.rendered(factors)


@dataclasses.dataclass
class DrawnSource(ImageSource):
    """Shapes drawn whenever they are read: more of them than should lie in memory."""

    def __len__(self) -> int:
        return len(self.factors)

    def read(
        self, indices: np.ndarray, positions: np.ndarray, seed: int, step: int
    ) -> tuple[Arrays, list[Problem]]:
        del positions, seed, step  # nothing random
        image = render(self.factors[indices], self.canvas.size, self.canvas.channels)
        index = indices.astype(np.int32)
        return {"image": image, "label": self.labels[indices], "index": index}, []


def draw_factors(
    seed: int, split: str, indices: np.ndarray, tail: tuple[str, float] | None = None
) -> np.ndarray:
    """The factors of examples, float32 [n f] in the order of FACTORS.

    Args:
      seed: of the data set.
      split: one of SPLITS.
      indices: of the examples, int [n].
      tail: a factor whose classes form a long tail, and the share of the rarest class.
    """
    stream = counter.key(seed, SPLITS.index(split))
    counters = np.asarray(indices)[:, None] * len(FACTORS) + np.arange(len(FACTORS))  # [n f]
    uniform = counter.uniform(stream, counters)
    if tail is not None:
        column = list(FACTORS).index(tail[0])
        uniform[:, column] = _long_tailed(uniform[:, column], num_classes(tail[0]), tail[1])
    return _in_ranges(uniform)


def _long_tailed(uniform: np.ndarray, classes: int, rarest: float) -> np.ndarray:
    """Numbers in [0, 1) of which part c of `classes` equal parts has a share ~ rarest^(c/(C-1))."""
    share = rarest ** (np.arange(classes) / (classes - 1))
    ends = np.cumsum(share) / share.sum()
    part = np.minimum(np.searchsorted(ends, uniform, side="right"), classes - 1)
    starts = np.concatenate([[0], ends[:-1]])
    within = (uniform - starts[part]) / (ends[part] - starts[part])
    return np.minimum((part + within) / classes, np.nextafter(1, 0))


def _in_ranges(uniform: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1) to values of the factors, [n f] to float32 [n f]."""
    low, high = np.array(list(FACTORS.values())).T
    factors = low + uniform * (high - low)
    factors[:, 0] = np.floor(factors[:, 0])
    return factors.astype(np.float32)


def label_of(factors: np.ndarray, name: str) -> np.ndarray:
    """The factor `name` as a class, int32 [n]."""
    if name == "combination":
        pairs = np.stack([label_of(factors, "shape"), label_of(factors, "hue") // 2], axis=1)
        number_of = np.zeros((len(SHAPES), BINS // 2), np.int32)
        number_of[tuple(np.transpose(COMBINATIONS))] = np.arange(len(COMBINATIONS))
        return number_of[tuple(pairs.T)]
    column = factors[:, list(FACTORS).index(name)]
    if name == "shape":
        return column.astype(np.int32)
    low, high = FACTORS[name]
    bins = np.floor((column - low) / (high - low) * BINS)
    return np.clip(bins, 0, BINS - 1).astype(np.int32)


def render(factors: np.ndarray, size: int, channels: int = 3) -> np.ndarray:
    """Draws shapes from their factors.

    Args:
      factors: float [n f] as `draw_factors` gives them.
      size: side of the images, pixels.
      channels: 1 or 3.

    Returns:
      uint8 [n size size channels], edges smoothed over one pixel.
    """
    factors = np.asarray(factors, np.float32)
    out = np.empty((len(factors), size, size, channels), np.uint8)
    for shape, part in _blocks(factors, size):
        out[part] = _draw(shape, factors[part], size, channels)
    return out


def render_masks(factors: np.ndarray, size: int) -> np.ndarray:
    """The class of each pixel, an index into MASK_CLASSES: the shape where its centre is inside.

    Args:
      factors, size: as of `render`.

    Returns:
      uint8 [n size size].
    """
    factors = np.asarray(factors, np.float32)
    out = np.empty((len(factors), size, size), np.uint8)
    for shape, part in _blocks(factors, size):
        inside = _outside(shape, factors[part], size) <= 0
        out[part] = inside * MASK_CLASSES.index(shape)
    return out


def _blocks(factors: np.ndarray, size: int) -> Iterator[tuple[str, np.ndarray]]:
    """Shapes with the rows to draw at a time."""
    block = max(1, _BLOCK_PIXELS // size**2)
    for number, shape in enumerate(SHAPES):
        rows = np.flatnonzero(factors[:, 0] == number)
        for start in range(0, len(rows), block):
            yield shape, rows[start : start + block]


def _outside(shape: str, factors: np.ndarray, size: int) -> np.ndarray:
    """Pixels from the centre of each pixel to the outline, negative inside: float32 [n s s]."""
    _, _, radius, angle, x, y, _ = factors.T[:, :, None, None]  # each [n 1 1]
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    across, down = centres[None, None, :] - x, centres[None, :, None] - y
    u = (np.cos(angle) * across + np.sin(angle) * down) / radius  # in the unit shape's frame
    v = (np.cos(angle) * down - np.sin(angle) * across) / radius
    return _DISTANCES[shape](u, v) * radius * size


def _draw(shape: str, factors: np.ndarray, size: int, channels: int) -> np.ndarray:
    """As `render`, for examples of one shape."""
    hue, ground_hue = factors[:, list(FACTORS).index("hue")], factors[:, -1]
    cover = np.clip(0.5 - _outside(shape, factors, size), 0.0, 1.0)[..., None]  # [n s s 1]
    ink = _rgb(hue, saturation=0.8, value=0.9)[:, None, None]  # [n 1 1 3]
    ground = _rgb(ground_hue, saturation=0.6, value=0.6)[:, None, None]
    if channels == 1:
        luminance = np.array([0.299, 0.587, 0.114], np.float32)
        ink, ground = (colour @ luminance[:, None] for colour in (ink, ground))
    return np.round(255 * (ground + cover * (ink - ground))).astype(np.uint8)


def _rgb(hue: np.ndarray, saturation: float, value: float) -> np.ndarray:
    """HSV to RGB, float32 [n 3] in [0, 1]."""
    sector = (np.array([5, 3, 1], np.float32) + 6 * hue[:, None]) % 6
    fall = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    return (value - value * saturation * fall).astype(np.float32)


# Distances beyond the outline of shapes of area pi, in units in which the disc has radius 1. They
# are exact on and near the edges and zero exactly on the outline, which is all that drawing needs.


def _ring(u: np.ndarray, v: np.ndarray, hole: float = 0.55) -> np.ndarray:
    outer = 1 / np.sqrt(1 - hole**2)
    radius = np.hypot(u, v)
    return np.maximum(radius - outer, hole * outer - radius)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    arm = np.sqrt(9 * np.pi / 20)  # half length, three times the half width
    u, v = np.abs(u), np.abs(v)
    return np.maximum(np.minimum(u, v) - arm / 3, np.maximum(u, v) - arm)


def _star(u: np.ndarray, v: np.ndarray, points: int, inner: float) -> np.ndarray:
    """A star whose notches lie at `inner` times its tips' radius; cos(pi/points) is a polygon."""
    half = np.pi / points
    tip = np.sqrt(np.pi / (points * inner * np.sin(half)))
    radius, phi = np.hypot(u, v), np.arctan2(v, u)
    phi = np.abs((phi + half) % (2 * half) - half)  # folded into one half of one point
    notch_x, notch_y = tip * inner * np.cos(half), tip * inner * np.sin(half)
    edge_x, edge_y = tip - notch_x, -notch_y  # from the notch to the tip
    length = np.hypot(edge_x, edge_y)
    return (
        (radius * np.cos(phi) - notch_x) * -edge_y + (radius * np.sin(phi) - notch_y) * edge_x
    ) / length


_DISTANCES = {
    "disc": lambda u, v: np.hypot(u, v) - 1,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) - np.float32(np.sqrt(np.pi) / 2),
    "triangle": lambda u, v: _star(u, v, 3, 0.5),
    "star": lambda u, v: _star(u, v, 5, 0.45),
    "cross": _cross,
    "ring": _ring,
}


def known(location: str, options: Mapping[str, Any]) -> Facts:
    """The facts of a data set with these options."""
    del location
    classes = num_classes(options["label"])
    return Facts(sizes(options["num_generated"]), classes, IMAGE_SIZE, CHANNELS)


KIND = ImageKind(name="shapes", dataset=dataset, known=known)
