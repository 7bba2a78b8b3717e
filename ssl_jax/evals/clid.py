"""CLID: clusters that are easy to learn, in many dimensions.

Lu et al. 2023, "Using Representation Expressiveness and Learnability to Evaluate Self-Supervised
Learning Methods". Learnability is the accuracy of the nearest neighbour in telling the clusters of
half of the examples, given those of the other half. Expressiveness is the intrinsic dimension by
the two nearest neighbours of each example (TwoNN, Facco et al. 2017; maximum likelihood). No label
is used.

The paper combines both after scaling them over the compared models; `clid` adds the dimension over
the width of the features, which needs no other model. That sum, floor(sqrt(n)) clusters and equal
halves are those of a public port: the paper's own protocol has not been checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import jax
import numpy as np
from jaxtyping import Float

from ssl_jax.config.fields import at_least
from ssl_jax.core.errors import UserError
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.nearest import neighbours
from ssl_jax.evals.ranking import unit_rows
from ssl_jax.evals.retrieval import cluster

NEEDS = ()
METRICS = {
    "clid": Metric("CLID", "learnable clusters and dimension (CLID)", unit=""),
    "learnability": Metric("learnability", "accuracy of telling clusters", shown=False),
    "dimension": Metric("dimension", "intrinsic dimension (TwoNN)", unit="", shown=False),
}
_STARTS = 4  # of k-means


def evaluate(
    train: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
    devices: Sequence[jax.Device] | None = None,
    max_examples: Annotated[int, at_least(8), "Examples, evenly spaced in the split."] = 10_000,
) -> dict[str, float]:
    """The measures of the train features.

    Args:
      train: `h` float [n d].
      seed: of the clusters and of the halves.
      devices: for clusters and neighbours.
      max_examples: the option.

    Raises:
      UserError: there are fewer than eight examples.
    """
    h = train["h"]
    if len(h) < 8:
        raise UserError(f"clid needs at least 8 train examples, and there are {len(h)}")
    h = h[np.linspace(0, len(h) - 1, min(max_examples, len(h))).astype(int)]
    learned = learnability(h, seed=seed, devices=devices)
    dimension = two_nn(h)
    return {
        "clid": learned + min(dimension / h.shape[1], 1.0),
        "learnability": learned,
        "dimension": dimension,
    }


def learnability(
    h: Float[np.ndarray, "n d"], *, seed: int = 0, devices: Sequence[jax.Device] | None = None
) -> float:
    """Share of one half whose nearest neighbour by cosine, in the other half, is in its cluster."""
    number = int(np.sqrt(len(h)))
    assigned = cluster(h, number, starts=_STARTS, seed=seed, devices=devices)
    order = np.random.default_rng(seed).permutation(len(h))
    known, asked = order[: len(h) // 2], order[len(h) // 2 :]
    _, nearest = neighbours(h[asked], h[known], 1, devices=devices)
    return float(np.mean(assigned[asked] == assigned[known][nearest[:, 0]]))


def two_nn(h: Float[np.ndarray, "n d"]) -> float:
    """Intrinsic dimension: n over the sum of log(second / first distance) of unit-length rows.

    Examples with an equal one, whose first distance is 0, are left out; 0 if none is left.
    """
    unit = unit_rows(h).astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 0.5)
    logs = []
    for first in range(0, len(unit), 1024):
        rows = unit[first : first + 1024]
        squared = np.maximum(2 - 2 * rows @ unit.T, 0)
        squared[np.arange(len(rows)), first + np.arange(len(rows))] = np.inf
        one, two = np.partition(squared, 1, axis=1)[:, :2].T
        apart = one > 1e-12
        logs.append(np.log(two[apart] / one[apart]) / 2)
    total = np.concatenate(logs)
    return float(len(total) / total.sum()) if len(total) and total.sum() > 0 else 0.0
