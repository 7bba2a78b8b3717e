"""Image files in folders, and data sets that lists or names of files describe."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.folders import files_below, path_hash
from ssl_jax.data.image import EXTENSIONS
from ssl_jax.data.image_source import EncodedSource, ImageSource
from ssl_jax.data.names import Names
from ssl_jax.data.request import Request


@dataclasses.dataclass
class FileSource(EncodedSource):
    """Image files; `names` are their paths relative to `root`."""

    root: str = dataclasses.field(kw_only=True)

    def __len__(self) -> int:
        return len(self.names)

    def _example(self, index: int) -> tuple[bytes, int]:
        with open(os.path.join(self.root, self.names[index]), "rb") as file:
            encoded = file.read()
        return encoded, -1 if self.labels is None else int(self.labels[index])

    def example_name(self, index: int) -> str:
        return os.path.join(self.root, self.names[index])


class Listed(NamedTuple):
    """The images of one split.

    Attributes:
      paths: relative to the root of the data set.
      labels: int [n].
      classes: names of the classes by label; those of other splits may come after them.
      factors: of each image by name, e.g. "camera".
    """

    paths: list[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    factors: Mapping[str, np.ndarray] = {}


@dataclasses.dataclass(frozen=True)
class ListedImages:
    """A data set whose splits are listed when it is opened.

    The examples of a split are ordered by a hash of their path, as in `folder:PATH`.

    Attributes:
      name: of the data set, for messages.
      root: folder of the paths.
      request: options of every data set.
      parts: the images of each split.
    """

    name: str
    root: str
    request: Request
    parts: Mapping[str, Listed]

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.parts)

    def source(self, split: str) -> ImageSource:
        """The examples of a split.

        Raises:
          UserError: there are none, or the first file does not exist.
        """
        part = self.parts[split]
        if not part.paths:
            raise UserError(f"{self.name} has no images for split {split!r}")
        check_exists(self.name, self.root, part.paths[0])
        order = np.array(sorted(range(len(part.paths)), key=lambda i: path_hash(part.paths[i])))
        factors = None
        if part.factors:
            columns = [np.asarray(column)[order] for column in part.factors.values()]
            factors = np.stack(columns, axis=1).astype(np.float32)
        return FileSource(
            name=f"{self.name}[{split}]",
            canvas=self.request.canvas(),
            strict=self.request.strict,
            root=self.root,
            names=Names(part.paths[i] for i in order),
            labels=np.asarray(part.labels, np.int32)[order],
            num_classes=len(part.classes),
            class_names=part.classes,
            factors=factors,
            factor_names=tuple(part.factors) or None,
        )


def check_exists(name: str, root: str, path: str) -> None:
    """Raises UserError if a listed file does not exist."""
    if not os.path.exists(os.path.join(root, path)):
        raise UserError(f"{name} lists {path}, which does not exist below {root}")


def table(path: str, columns: int) -> list[list[str]]:
    """The lines of a text file, cut at white space.

    Args:
      path: of the file.
      columns: of each line; empty lines are skipped.

    Raises:
      UserError: there is no such file, or a line has another number of columns.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        row = line.split()
        if row and len(row) != columns:
            raise UserError(
                f"{path} line {number} has {len(row)} columns instead of {columns}: {line[:80]!r}"
            )
        if row:
            rows.append(row)
    return rows


def image_files(root: str) -> Iterator[str]:
    """Paths of the image files below `root`, relative to it, `/` between folders."""
    return files_below(root, EXTENSIONS)
