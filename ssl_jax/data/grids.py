"""Images of all combinations of a few factors, from one file: dSprites and Shapes3D.

The images stand in the order of their factors, the last one changing fastest. As such an order is
of no use for sub-splits, a tenth of the images, drawn at random once and for all, is `test`, and
the others are `train`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Protocol

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data import counter
from ssl_jax.data.image import Canvas, on_canvas
from ssl_jax.data.image_source import ImageSource
from ssl_jax.data.kind import Facts
from ssl_jax.data.source import Arrays, Problem

SPLITS = ("train", "test")
TEST_SHARE = 10  # one of so many images is for testing
IMAGE_SIZE = 64


class GridImages(Protocol):
    """The images of a file, read by number."""

    def __len__(self) -> int: ...

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Images int [n] -> uint8 [n h w c]."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """The images of a file and their factors.

    Attributes:
      name: what the data set is called in messages.
      images: all images.
      classes: int64 [n f], the value of each factor of each image, counted from 0.
      names: of the factors.
      label: the factor that is the label.
      canvas: what images are put on.
    """

    name: str
    images: GridImages
    classes: np.ndarray
    names: tuple[str, ...]
    label: str
    canvas: Canvas
    splits: ClassVar[tuple[str, ...]] = SPLITS

    def __post_init__(self) -> None:
        if len(self.images) != len(self.classes) or self.classes.shape[1:] != (len(self.names),):
            raise UserError(
                f"{self.name} holds {len(self.images):,} images, and factors of shape "
                f"{self.classes.shape}; expected {len(self.names)} factors of each image"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each factor."""
        return tuple(int(size) for size in self.classes.max(axis=0) + 1)

    @property
    def is_complete(self) -> bool:
        """Whether there is one image of each combination, in the order of the factors."""
        if int(np.prod(self.sizes)) != len(self.classes):
            return False
        numbers = np.ravel_multi_index(tuple(self.classes.T), self.sizes)
        return bool((numbers == np.arange(len(self.classes))).all())

    def source(self, split: str) -> GridSource:
        return self.source_of(rows_of(len(self.classes))[split], split)

    def source_of(self, rows: np.ndarray, name: str) -> GridSource:
        """The images with these numbers, int [n], as a source."""
        classes = self.classes[rows]
        column = self.names.index(self.label)
        return GridSource(
            name=f"{self.name}[{name}]",
            canvas=self.canvas,
            labels=classes[:, column].astype(np.int32),
            num_classes=self.sizes[column],
            factors=classes.astype(np.float32),
            factor_names=self.names,
            renderer=GridRenderer(self) if self.is_complete else None,
            grid=self.images,
            rows=rows,
        )


def rows_of(count: int) -> dict[str, np.ndarray]:
    """The numbers of the images of each split, ascending int64."""
    order = np.argsort(counter.bits(counter.key(counter.Stream.SHUFFLE), np.arange(count)))
    num_test = count // TEST_SHARE
    return {"train": np.sort(order[num_test:]), "test": np.sort(order[:num_test])}


def facts(count: int, num_classes: int, channels: int) -> Facts:
    """The facts of a published file with `count` images."""
    num_test = count // TEST_SHARE
    sizes = {"train": count - num_test, "test": num_test}
    return Facts(sizes, num_classes, IMAGE_SIZE, channels)


@dataclasses.dataclass
class GridSource(ImageSource):
    """Some images of a file.

    Attributes:
      grid: all images of the file.
      rows: int64 [len], the numbers of the images of this source.
    """

    grid: GridImages = dataclasses.field(kw_only=True)
    rows: np.ndarray = dataclasses.field(kw_only=True)

    def __len__(self) -> int:
        return len(self.rows)

    def read(
        self, indices: np.ndarray, positions: np.ndarray, seed: int, step: int
    ) -> tuple[Arrays, list[Problem]]:
        del positions, seed, step  # nothing random
        arrays = {
            "image": on_canvas(self.grid.read(self.rows[indices]), self.canvas),
            "label": self.labels[indices],
            "index": indices.astype(np.int32),
        }
        return arrays, []

    def _rows(self, rows: slice | np.ndarray) -> dict[str, Any]:
        return super()._rows(rows) | {"rows": self.rows[rows]}


@dataclasses.dataclass(frozen=True)
class GridRenderer:
    """Looks up the image of any combination of factors, see `image_source.Renderer`."""

    grid: Grid

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        sizes = self.grid.sizes
        return rng.integers(0, sizes, size=(count, len(sizes))).astype(np.float32)

    def source(self, factors: np.ndarray) -> GridSource:
        columns = tuple(np.asarray(factors).astype(np.int64).T)
        return self.grid.source_of(np.ravel_multi_index(columns, self.grid.sizes), "looked up")
