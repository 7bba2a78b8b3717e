"""Masks: the class of each pixel of images, read apart from the images.

Training needs no masks, so batches have none. `ImageSource.masks` has a mask per example; an
evaluation reads those of the examples it has encoded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

IGNORED = 255  # the label of pixels that do not count, as in PASCAL VOC


@dataclasses.dataclass(frozen=True)
class Masks:
    """The masks of the examples of a source.

    Attributes:
      classes: names of the classes by label.
      items: what each mask is made from, one per example: factors [n f], or names of files.
      load: items [m] -> uint8 [m s s], labels or IGNORED, on the square canvas of the images.
    """

    classes: tuple[str, ...]
    items: Any
    load: Callable[[Any], np.ndarray]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, rows: slice | np.ndarray) -> Masks:
        """The masks of some of the examples."""
        return dataclasses.replace(self, items=self.items[rows])

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The masks of the examples `indices` int [m]: uint8 [m s s].

        Raises:
          UserError: a mask cannot be read, or has a label that is no class.
        """
        return self.load(self.items[np.asarray(indices)])


def joined(masks: Sequence[Masks | None]) -> Masks | None:
    """The masks of several sources of one data set, one after the other; None if one has none."""
    known = [part for part in masks if part is not None]
    if len(known) < len(masks):
        return None
    items = known[0].items
    if isinstance(items, np.ndarray):
        items = np.concatenate([part.items for part in known])
    else:
        items = type(items)(item for part in known for item in part.items)
    return dataclasses.replace(known[0], items=items)
