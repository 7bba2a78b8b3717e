"""Sources of images: in memory, encoded, and several one after the other."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from jaxtyping import Float

from ssl_jax.core.method import DataSpec
from ssl_jax.data import masks as masks_lib
from ssl_jax.data.image import Canvas, largest_wide_value
from ssl_jax.data.masks import Masks
from ssl_jax.data.names import Names
from ssl_jax.data.source import (
    MAX_REPLACEMENTS,
    Arrays,
    Problem,
    Source,
    none_readable,
    unreadable,
)
from ssl_jax.modalities.image import IMAGE

_LOOKED_AT = 64  # images of a source, to note what is unusual about them
_DARK = 4095  # largest value of 12 bits


class Renderer(Protocol):
    """Draws factors from their distribution, and renders images from factors."""

    def draw(self, rng: np.random.Generator, count: int) -> Float[np.ndarray, "n f"]:
        """The factors of `count` new examples, float32, all independent."""

    def source(self, factors: Float[np.ndarray, "n f"]) -> ImageSource:
        """A source of the images with these factors; they are rendered when they are read."""


@dataclasses.dataclass
class ImageSource(Source):
    """Images on a canvas.

    Attributes:
      canvas: size and channels of the images it delivers.
      factors: ground-truth factors float32 [len f]; None where there are none, or they are unknown
        without reading the data.
      factor_names: their names; None without factors.
      renderer: renders images from other factors, or None.
      masks: the class of each pixel, or None.
      label_matrix: int8 [len k] of images that can have several labels: 1 has label k, 0 has it
        not, -1 is unknown; the array `labels` of a batch. None where there are none.
      label_names: the names of its columns.
    """

    canvas: Canvas = dataclasses.field(kw_only=True)
    factors: np.ndarray | None = dataclasses.field(default=None, kw_only=True)
    factor_names: tuple[str, ...] | None = dataclasses.field(default=None, kw_only=True)
    renderer: Renderer | None = dataclasses.field(default=None, kw_only=True)
    masks: Masks | None = dataclasses.field(default=None, kw_only=True)
    label_matrix: np.ndarray | None = dataclasses.field(default=None, kw_only=True)
    label_names: tuple[str, ...] | None = dataclasses.field(default=None, kw_only=True)

    unit: ClassVar[str] = "image"
    examples_are_labelled: ClassVar[bool] = True

    @property
    def spec(self) -> DataSpec:
        return image_spec(self.canvas, len(self), self.num_classes, self.num_labels)

    @property
    def num_labels(self) -> int:
        """Columns of `label_matrix`; 0 without one."""
        return 0 if self.label_matrix is None else self.label_matrix.shape[1]

    def labels_of(self, indices: np.ndarray) -> Arrays:
        """The array `labels` int8 [n k] of these examples, by name; {} without labels."""
        return {} if self.label_matrix is None else {"labels": self.label_matrix[indices]}

    def read_factors(self) -> np.ndarray | None:
        """`factors`, read from the data where they are not known yet; None where there are none.

        Raises:
          UserError: the data cannot be read.
        """
        return self.factors

    def select(self, start: int, stop: int) -> ImageSource:
        rows = self._rows(slice(start, stop))
        return dataclasses.replace(self, problems=dict(self.problems), **rows)

    def joined(self, others: Sequence[ImageSource]) -> ImageSource:
        return Concatenated.of((self, *others))

    def take(self, rows: np.ndarray) -> ImageSource:
        """The examples `rows`, int [n] ascending, as a source of their own."""
        return dataclasses.replace(self, problems=dict(self.problems), **self._rows(rows))

    def relabelled(self, labels: np.ndarray) -> ImageSource:
        """The same examples with these labels, int32 [len], -1 for none."""
        return dataclasses.replace(self, problems=dict(self.problems), labels=labels)

    def _rows(self, rows: slice | np.ndarray) -> dict[str, Any]:
        """The fields that hold something per example, cut to `rows`."""
        fields = ("labels", "names", "factors", "masks", "label_matrix")
        values = {field: getattr(self, field) for field in fields}
        return {field: value[rows] for field, value in values.items() if value is not None}


def image_spec(
    canvas: Canvas, num_examples: int, num_classes: int | None, num_labels: int = 0
) -> DataSpec:
    """The DataSpec of examples on `canvas`; `num_labels` is the width of `labels`, 0 for none."""
    whole = canvas.whole.shapes if canvas.crops else None
    return IMAGE.spec(canvas.shapes, num_examples, num_classes, whole, num_labels)


@dataclasses.dataclass
class ArraySource(ImageSource):
    """Examples in memory: `images` uint8 [len h w c]; `earlier_notes` of the source they are of."""

    images: np.ndarray = dataclasses.field(kw_only=True)
    earlier_notes: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
    bad_rows: Mapping[int, Problem] = dataclasses.field(default_factory=dict, kw_only=True)

    in_memory: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.images)

    def notes(self) -> list[str]:
        return [*super().notes(), *self.earlier_notes]

    def read(
        self, indices: np.ndarray, positions: np.ndarray, seed: int, step: int
    ) -> tuple[Arrays, list[Problem]]:
        del positions, seed, step  # nothing random
        if self.labels is None:
            labels = np.full(len(indices), -1, np.int32)
        else:
            labels = self.labels[indices]
        arrays = {
            "image": self.images[indices],
            "label": labels,
            "index": indices.astype(np.int32),
            **self.labels_of(indices),
        }
        problems = [
            self.bad_rows[int(index)]._replace(row=row)
            for row, index in enumerate(indices if self.bad_rows else ())
            if int(index) in self.bad_rows
        ]
        return arrays, problems

    def _rows(self, rows: slice | np.ndarray) -> dict[str, Any]:
        kept = np.arange(len(self))[rows].tolist() if self.bad_rows else ()
        bad_rows = {new: self.bad_rows[old] for new, old in enumerate(kept) if old in self.bad_rows}
        images = self.images[rows]
        if images.base is not None and 2 * len(images) <= len(self.images):
            images = images.copy()  # a view would keep all images in memory
        return super()._rows(rows) | {"images": images, "bad_rows": bad_rows}


@dataclasses.dataclass
class EncodedSource(ImageSource):
    """Examples are encoded images (JPEG, PNG, ...), decoded whenever they are read.

    Attributes:
      strict: whether an unreadable image stops the run.
    """

    strict: bool = dataclasses.field(default=False, kw_only=True)

    @abc.abstractmethod
    def _example(self, index: int) -> tuple[bytes | np.ndarray, int]:
        """The encoded (or, exceptionally, decoded) image and its label; may raise anything."""

    def notes(self) -> list[str]:
        return [*super().notes(), *self._dark_images()]

    def _dark_images(self) -> list[str]:
        """A line if images of 16 bits a value use so few of them that they look black.

        Looked for in at most `_LOOKED_AT` images, spread evenly. Cameras and scanners of 10 or 12
        bits write such files.
        """
        largest: dict[str, int] = {}
        for index in np.linspace(0, len(self) - 1, min(len(self), _LOOKED_AT)).astype(int).tolist():
            with contextlib.suppress(Exception):  # `read` tells of images that cannot be read
                value = largest_wide_value(self._example(index)[0])
                if value is not None:
                    largest[self.example_name(index)] = value
        dark = {name: value for name, value in largest.items() if value <= _DARK}
        if not dark:
            return []
        name = max(dark, key=dark.__getitem__)
        return [
            f"{len(dark)} of {len(largest)} images looked at with 16 bits a value are dark: the "
            f"largest value of {name} is {dark[name]:,} of 65,535. Of 16 bits the upper 8 are "
            "kept, so they look black; if they have 12 bits or fewer, save them scaled to 16"
        ]

    def read(
        self, indices: np.ndarray, positions: np.ndarray, seed: int, step: int
    ) -> tuple[Arrays, list[Problem]]:
        images = {
            name: np.empty((len(indices), *shape), np.uint8)
            for name, shape in self.canvas.shapes.items()
        }
        labels = np.empty(len(indices), np.int32)
        examples = np.array(indices)  # those whose images are in the rows
        problems: list[Problem] = []
        tries = min(MAX_REPLACEMENTS, len(self))
        for row, index in enumerate(indices):
            boxes = self.canvas.boxes(seed, step, int(positions[row]))
            for candidate in range(int(index), int(index) + tries):
                candidate %= len(self)
                try:
                    encoded, labels[row] = self._example(candidate)
                    for name, image in self.canvas.render(encoded, boxes).items():
                        images[name][row] = image
                    examples[row] = candidate
                    break
                except Exception as error:  # Pillow's readers raise all kinds on broken files
                    name = self.example_name(candidate)
                    problems.append(unreadable("image", row, name, error, strict=self.strict))
            else:
                raise none_readable("image", self.name, problems[-tries:])
        arrays = {**images, "label": labels, "index": indices.astype(np.int32)}
        return arrays | self.labels_of(examples), problems


@dataclasses.dataclass
class Concatenated(ImageSource):
    """Several sources one after the other; the parts share canvas and classes."""

    parts: tuple[ImageSource, ...] = dataclasses.field(default=(), kw_only=True)

    def notes(self) -> list[str]:
        return [*super().notes(), *(note for part in self.parts for note in part.notes())]

    @classmethod
    def of(cls, parts: Sequence[ImageSource]) -> ImageSource:
        """The parts as one source; in memory if all of them are."""
        first = parts[0]
        # Where the splits have different classes, those of the later ones include the others.
        widest = max(parts, key=lambda part: part.num_classes or 0)
        shared = {
            "name": first.name, "canvas": first.canvas, "num_classes": widest.num_classes,
            "class_names": widest.class_names, "factor_names": first.factor_names,
            "renderer": first.renderer, "label_names": first.label_names,
            "label_matrix": _joined([part.label_matrix for part in parts]),
            "labels": _joined([part.labels for part in parts]),
            "factors": _joined([part.factors for part in parts]),
            "masks": masks_lib.joined([part.masks for part in parts]),
        }  # fmt: skip
        if all(type(part) is ArraySource and not part.bad_rows for part in parts):
            return ArraySource(images=np.concatenate([part.images for part in parts]), **shared)
        if all(part.names is not None for part in parts):
            shared["names"] = Names(name for part in parts for name in part.names)
        return cls(parts=tuple(parts), **shared)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def take(self, rows: np.ndarray) -> ImageSource:
        ends = np.cumsum([0, *map(len, self.parts)])
        own = np.split(rows, np.searchsorted(rows, ends[1:-1]))
        parts = [
            part.take(rows - start)
            for part, rows, start in zip(self.parts, own, ends, strict=False)
        ]
        return dataclasses.replace(super().take(rows), parts=tuple(parts))

    def read_labels(self) -> np.ndarray | None:
        if self.labels is not None:
            return self.labels
        read = [part.read_labels() for part in self.parts]
        if any(labels is not None for labels in read):
            self.labels = np.concatenate([
                np.full(len(part), -1, np.int32) if labels is None else labels
                for part, labels in zip(self.parts, read, strict=True)
            ])  # fmt: skip
        return self.labels

    def read_factors(self) -> np.ndarray | None:
        if self.factors is None:
            self.factors = _joined([part.read_factors() for part in self.parts])
        return self.factors

    def relabelled(self, labels: np.ndarray) -> ImageSource:
        own = np.split(labels, np.cumsum([len(part) for part in self.parts])[:-1])
        parts = [part.relabelled(labels) for part, labels in zip(self.parts, own, strict=True)]
        return dataclasses.replace(super().relabelled(labels), parts=tuple(parts))

    def example_name(self, index: int) -> str:
        for part in self.parts:
            if index < len(part):
                return part.example_name(index)
            index -= len(part)
        raise IndexError(f"{self.name} has {len(self)} examples")

    def read(
        self, indices: np.ndarray, positions: np.ndarray, seed: int, step: int
    ) -> tuple[Arrays, list[Problem]]:
        arrays: dict[str, np.ndarray] = {}
        problems: list[Problem] = []
        start = 0
        for part in self.parts:
            rows = np.flatnonzero((indices >= start) & (indices < start + len(part)))
            read, unreadable = part.read(indices[rows] - start, positions[rows], seed, step)
            for key, value in read.items():
                if key not in arrays:
                    arrays[key] = np.empty((len(indices), *value.shape[1:]), value.dtype)
                arrays[key][rows] = value + start if key == "index" else value
            problems += [problem._replace(row=int(rows[problem.row])) for problem in unreadable]
            start += len(part)
        return arrays, sorted(problems, key=lambda problem: problem.row)


def _joined(arrays: list[np.ndarray | None]) -> np.ndarray | None:
    return None if any(array is None for array in arrays) else np.concatenate(arrays)
