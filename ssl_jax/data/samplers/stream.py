"""`stream`: examples in the order of the data set, for text whose rows continue each other.

    rows="sequential"   a batch is B consecutive examples: rows 0..B-1, then B..2B-1, ...
    rows="parallel"     row i of a batch continues row i of the batch before it: the data set is cut
                        into B streams of equal length, one a row, as models that carry a state from
                        batch to batch need them

Every epoch is the same; the seed has no effect.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import numpy as np

from ssl_jax.data.samplers.base import Order, Sampler


@dataclasses.dataclass(frozen=True)
class Stream(Sampler):
    """The order of the data set."""

    rows: Annotated[
        Literal["sequential", "parallel"],
        "sequential: the examples of a batch follow each other; parallel: each row of a batch "
        "follows the same row of the batch before.",
    ] = "sequential"

    def order(
        self, num_examples: int, batch_size: int, seed: int, labels: np.ndarray | None = None
    ) -> StreamOrder:
        del seed, labels
        steps = self.steps_per_epoch(num_examples, batch_size)
        return StreamOrder(batch_size, steps, self.rows == "parallel")

    def notes(self, num_examples: int, batch_size: int) -> list[str]:
        return ["in the order of the data", *super().notes(num_examples, batch_size)]


@dataclasses.dataclass(frozen=True)
class StreamOrder(Order):
    """Examples in their own order, in batches or in parallel streams."""

    batch_size: int
    steps_per_epoch: int
    parallel: bool

    def indices(self, step: int) -> np.ndarray:
        batch = step % self.steps_per_epoch
        rows = np.arange(self.batch_size)
        if self.parallel:
            return rows * self.steps_per_epoch + batch
        return batch * self.batch_size + rows
