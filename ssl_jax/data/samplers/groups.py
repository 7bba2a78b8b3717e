"""Samplers of data whose examples come in groups, such as pairs: batches are whole groups."""

from __future__ import annotations

import dataclasses

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.samplers.base import Order, Sampler


def check_groups(batch_size: int, group_size: int) -> None:
    """Raises UserError unless a batch consists of whole groups."""
    if batch_size % group_size:
        down = batch_size - batch_size % group_size
        sizes = [size for size in (down, down + group_size) if size]
        raise UserError(
            f"batch_size {batch_size} is no number of whole groups of {group_size} images; use "
            f"{' or '.join(map(str, sizes))}"
        )


def grouped_order(
    sampler: Sampler,
    num_examples: int,
    batch_size: int,
    seed: int,
    labels: np.ndarray | None,
    group_size: int,
) -> Order:
    """The order of a sampler that chooses groups of `group_size` examples, see `Sampler.order`.

    Raises:
      UserError: as `Sampler.order`, and `check_groups`.
    """
    if group_size == 1:
        return sampler.order(num_examples, batch_size, seed, labels)
    check_groups(batch_size, group_size)
    # No labels: those of groups cannot be compared with each other.
    groups = sampler.order(num_examples // group_size, batch_size // group_size, seed, None)
    return Groups(groups, group_size)


@dataclasses.dataclass(frozen=True)
class Groups(Order):
    """Whole groups: `order` of the groups, each with `group_size` examples."""

    order: Order
    group_size: int

    def indices(self, step: int) -> np.ndarray:
        first = self.order.indices(step) * self.group_size
        return (first[:, None] + np.arange(self.group_size)).reshape(-1)
