"""Which examples a step trains on: a pure function of (seed, step).

Every epoch is one shuffle of the data set, cut to a whole number of batches. Without the cut a
batch across an epoch's end could hold one example twice: a false negative for contrastive losses,
and two writes to one slot of a memory bank.
"""

from __future__ import annotations

import functools

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data import counter

_SHUFFLE = 1  # keeps the shuffle's stream apart from the crops' of the same seed


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """The order in which `epoch` visits the examples: a permutation, int64 [num_examples]."""
    # The counters' bits are distinct, so sorting them has no ties to break.
    order = np.argsort(counter.bits(counter.key(seed, _SHUFFLE, epoch), np.arange(num_examples)))
    order.flags.writeable = False  # it is cached
    return order


def batch_indices(seed: int, step: int, batch_size: int, num_examples: int) -> np.ndarray:
    """The examples of the global batch of `step` (0, 1, ...), int64 [batch_size], all different.

    Raises:
      UserError: the batch is larger than the data set.
    """
    check_batch_size(batch_size, num_examples)
    epoch, place = divmod(step, num_examples // batch_size)
    order = epoch_order(seed, epoch, num_examples)
    return order[place * batch_size : (place + 1) * batch_size]


def check_batch_size(batch_size: int, num_examples: int) -> None:
    """Raises UserError unless one epoch holds at least one batch."""
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1")
    if batch_size > num_examples:
        raise UserError(
            f"batch_size {batch_size} is larger than the data set of {num_examples} examples; "
            f"use {num_examples} or less"
        )
