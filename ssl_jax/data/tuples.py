"""Pairs and triplets of images: supervision without classes.

A tuple is `group_size` examples that follow each other. Batches keep them together: rows 2i and
2i + 1 are a pair, rows 3i to 3i + 2 an anchor, a positive and a negative. Within a tuple, equal
labels mean the same thing; labels of different tuples cannot be compared, and there are no classes
(`num_classes` None).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec
from ssl_jax.data.image_files import FileSource, check_exists
from ssl_jax.data.names import Names
from ssl_jax.data.request import Request


class Tuples(NamedTuple):
    """The tuples of a file.

    Attributes:
      paths: of the images, g for each tuple.
      labels: int32 [t g]; equal ones in a tuple are the same.
    """

    paths: list[str]
    labels: np.ndarray


@dataclasses.dataclass
class TupleSource(FileSource):
    """Image files in tuples; `extent` counts tuples, so no sub-split cuts one.

    An unreadable image is an error: another in its place would make the tuple wrong.
    """

    group_size: int = dataclasses.field(default=2, kw_only=True)

    @property
    def spec(self) -> DataSpec:
        return dataclasses.replace(super().spec, group_size=self.group_size)

    @property
    def extent(self) -> int:
        return len(self) // self.group_size

    def select(self, start: int, stop: int) -> TupleSource:
        return super().select(start * self.group_size, stop * self.group_size)

    def joined(self, others: Sequence[TupleSource]) -> TupleSource:
        """This and others of the same file, one after the other."""
        parts = (self, *others)
        return dataclasses.replace(
            self,
            names=Names(name for part in parts for name in part.names),
            labels=np.concatenate([part.labels for part in parts]),
        )


@dataclasses.dataclass(frozen=True)
class TupleFile:
    """The data set of a file of tuples; it has one split, `train`."""

    name: str
    root: str
    request: Request
    tuples: Tuples
    group_size: int
    splits = ("train",)

    def source(self, split: str) -> TupleSource:
        """The tuples, in the order of the file.

        Raises:
          UserError: an image of the file does not exist.
        """
        for path in dict.fromkeys(self.tuples.paths):
            check_exists(self.name, self.root, path)
        return TupleSource(
            name=f"{self.name}[{split}]",
            canvas=self.request.canvas(),
            strict=True,
            root=self.root,
            names=Names(self.tuples.paths),
            labels=self.tuples.labels,
            group_size=self.group_size,
        )


def lines(kind: str, location: str, columns: str) -> list[list[str]]:
    """The lines of a file, cut at tabs, or at commas, or at white space.

    Args:
      kind, location: of the data set.
      columns: what a line holds, in words, for the message; a word each.

    Raises:
      UserError: there is no such file, it is empty, or a line has another number of columns.
    """
    path = os.path.expanduser(location)
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise UserError(f"{kind}:{location} cannot be read: {error.strerror}") from error
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        separator = next((mark for mark in "\t," if mark in line), None)
        row = [cell.strip() for cell in line.split(separator)]
        if row in ([], [""]):
            continue
        if len(row) != len(columns.split()) or "" in row:
            raise UserError(
                f"{kind}:{location} line {number} is {line[:80]!r}; a line is: {columns}"
            )
        rows.append(row)
    if not rows:
        raise UserError(f"{kind}:{location} is empty; a line is: {columns}")
    return rows
