"""What an evaluation can know of its data and of the model before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np


class Known(NamedTuple):
    """Facts that an evaluation's `check` and `measures` decide by.

    Attributes:
      train, test: the sources; probes are fitted on the first one and scored on the second one.
      task: of the run's labelled texts; None without one.
      num_train: examples of `train` that probes are fitted on.
      num_classes: label classes of the data; None if there are none, or for another target.
      train_counts: labelled examples of `train` by class, int [c]; None: they are not known before
        the data are read, or nothing is fitted, or another target than `label` is learned.
      outputs: shapes of `Method.features` for one example, by name.
      classes: `data.classes` of the run, the classes that it is trained on; None: all.
      held_out: names of the arrays of `Method.held_out`; empty without any.
    """

    train: Any
    test: Any
    num_train: int
    task: str | None = None
    num_classes: int | None = None
    train_counts: np.ndarray | None = None
    outputs: Mapping[str, Any] = MappingProxyType({})
    classes: str | None = None
    held_out: tuple[str, ...] = ()
