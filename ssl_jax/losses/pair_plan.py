"""What the statistics of similarities are, and how they are to be computed: see `pairs`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Statistics(NamedTuple):
    """Statistics over the columns of each row, all [m] float32; None where not in the plan.

    Attributes:
      top: largest similarity. No gradient.
      lse: log of the sum of exp. Differentiable.
      mean: softmax-weighted mean similarity. No gradient.
      total: sum of the plan's function. Differentiable.
      nearest: largest similarity below the row's threshold. Differentiable, with the gradient of
        that similarity.

    For a row without columns top, lse and nearest are `tiles.MASKED`, and mean and total are 0.
    nearest is also `tiles.MASKED` where no similarity is below the threshold.
    """

    top: Array
    lse: Array | None = None
    mean: Array | None = None
    total: Array | None = None
    nearest: Array | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which statistics are computed, and how.

    Attributes:
      block_size: approximate number of rows and of columns of a tile. None computes the whole
        similarity matrix at once, which is faster for small ones.
      shift: upper bound of all similarities, subtracted before exp; None: a running maximum is
        subtracted instead.
      softmax: compute lse and mean.
      function: f(similarities [r c], thresholds [r 1]) -> [r c], elementwise, for total; None: no
        total. Use a module-level function: each new closure causes a recompilation.
      nearest: compute nearest. The other statistics then have no gradient.
      excluded: f(ids of rows [r 1 c], ids of columns [1 s c]) -> bool [r s], true for pairs to
        leave out; it needs ids. Use a module-level function.
    """

    block_size: int | None
    shift: float | None = None
    softmax: bool = True
    function: Callable[[Array, Array], Array] | None = None
    nearest: bool = False
    excluded: Callable[[Array, Array], Array] | None = None


class Ids(NamedTuple):
    """The ids of rows [m c] and of columns [n c]; both None if the plan excludes no pairs."""

    rows: Array | None = None
    columns: Array | None = None


def or_excluded(
    masked: Array | None, rows: Array | None, columns: Array | None, plan: Plan
) -> Array | None:
    """The mask of a tile, with the pairs added that the plan excludes by the ids [r c], [s c]."""
    if plan.excluded is None:
        return masked
    excluded = plan.excluded(rows[:, None, :], columns[None, :, :])
    return excluded if masked is None else masked | excluded


def total_of_tile(s: Array, threshold: Array, masked: Array | None, plan: Plan) -> Array:
    """Sums the plan's function over the columns of a tile, [r]."""
    if masked is None:
        return plan.function(s, threshold[:, None]).sum(axis=1)
    terms = plan.function(jnp.where(masked, 0, s), threshold[:, None])  # finite at masked pairs
    return jnp.where(masked, 0, terms).sum(axis=1)
