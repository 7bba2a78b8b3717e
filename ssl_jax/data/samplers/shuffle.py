"""`shuffle`: every epoch is a new random order of the data set, cut to whole batches.

Without the cut, a batch across the end of an epoch could hold an example twice: a false negative
for contrastive losses, and two writes to one slot of a memory bank.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from ssl_jax.data import counter
from ssl_jax.data.samplers.base import Order, Sampler


@dataclasses.dataclass(frozen=True)
class Shuffle(Sampler):
    """A new random order every epoch; no options."""

    def order(
        self, num_examples: int, batch_size: int, seed: int, labels: np.ndarray | None = None
    ) -> ShuffledOrder:
        del labels
        steps = self.steps_per_epoch(num_examples, batch_size)
        return ShuffledOrder(num_examples, batch_size, seed, steps)


@dataclasses.dataclass(frozen=True)
class ShuffledOrder(Order):
    """Consecutive parts of `epoch_order`."""

    num_examples: int
    batch_size: int
    seed: int
    steps_per_epoch: int

    def indices(self, step: int) -> np.ndarray:
        epoch, batch = divmod(step, self.steps_per_epoch)
        order = epoch_order(self.seed, epoch, self.num_examples)
        return order[batch * self.batch_size : (batch + 1) * self.batch_size]


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """The order in which `epoch` visits the examples: a permutation, int64 [num_examples]."""
    # The counters' bits are distinct, so the sort has no ties.
    stream = counter.key(seed, counter.Stream.SHUFFLE, epoch)
    order = np.argsort(counter.bits(stream, np.arange(num_examples)))
    order.flags.writeable = False  # callers share the cached array
    return order
