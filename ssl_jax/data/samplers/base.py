"""The sampler interface: which examples each step trains on, as a function of (seed, step).

A sampler is chosen by `config.data.sampler = dict(name="shuffle", ...)`; the other keys are the
fields of its class. It works in two stages. `Sampler` holds only options, so it can say how long an
epoch is without any data. `Sampler.order` binds it to a data set and returns an `Order`, whose
`indices(step)` is the same on every process.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

import numpy as np

from ssl_jax.core.errors import UserError


class Order(abc.ABC):
    """The examples of every step. Instances are pickled and sent to worker processes."""

    @abc.abstractmethod
    def indices(self, step: int) -> np.ndarray:
        """The examples of the global batch of `step` (0, 1, ...), int64 [batch_size]."""


@dataclasses.dataclass(frozen=True)
class Sampler(abc.ABC):
    """Options of a sampler; subclasses add fields, which are the keys of `config.data.sampler`."""

    # Whether `order` needs the labels of all examples.
    needs_labels: ClassVar[bool] = False

    @property
    def unique(self) -> bool:
        """Whether all examples of a batch are different."""
        return True

    def steps_per_epoch(self, num_examples: int, batch_size: int) -> int:
        """Steps of an epoch; needs no data. No batch crosses the end of an epoch.

        Raises:
          UserError: the data set cannot fill one batch, or the batch size does not suit the
            sampler.
        """
        check_batch_size(batch_size, num_examples)
        return num_examples // batch_size

    def check(self, num_classes: int | None, batch_size: int) -> None:
        """Checks what can be checked without the labels.

        Args:
          num_classes: label classes of the data set, None where it has none.
          batch_size: size of the global batch.

        Raises:
          UserError: the sampler does not suit such data.
        """
        del num_classes, batch_size

    @abc.abstractmethod
    def order(
        self, num_examples: int, batch_size: int, seed: int, labels: np.ndarray | None = None
    ) -> Order:
        """Binds the sampler to a data set.

        Args:
          num_examples: size of the data set.
          batch_size: size of the global batch.
          seed: seed of the run.
          labels: int32 [num_examples], -1 for none; given where `needs_labels`. None: the data have
            no labels.

        Raises:
          UserError: as `steps_per_epoch`, or the labels do not suit the sampler.
        """

    def notes(self, num_examples: int, batch_size: int) -> list[str]:
        """What to tell the user about an epoch, one line each."""
        left_out = num_examples - self.steps_per_epoch(num_examples, batch_size) * batch_size
        others = "other example" if left_out == 1 else "other examples"
        return [f"{left_out} {others} left out of each epoch"] if left_out else []


def check_batch_size(batch_size: int, num_examples: int) -> None:
    """Raises UserError unless one epoch holds at least one batch."""
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1")
    if batch_size > num_examples:
        raise UserError(
            f"batch_size {batch_size} is larger than the data set of {num_examples} examples; "
            f"use {num_examples} or less"
        )
