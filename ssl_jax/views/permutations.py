"""Sets of permutations that differ as much as possible, the classes of jigsaw puzzles."""

from __future__ import annotations

import functools
import itertools

import numpy as np

COUNT = 9  # tiles of a puzzle
TOTAL = 362_880  # 9!


@functools.cache
def _all() -> np.ndarray:
    """All permutations of 0 to 8 in lexicographic order, uint8 [9 9!]."""
    flat = itertools.chain.from_iterable(itertools.permutations(range(COUNT)))
    rows = np.fromiter(flat, np.uint8, COUNT * TOTAL).reshape(TOTAL, COUNT)
    return np.ascontiguousarray(rows.T)


@functools.lru_cache(maxsize=8)
def distant_permutations(count: int, seed: int = 0) -> np.ndarray:
    """Chooses permutations of nine tiles, one after the other, each as far as possible from all.

    The first is drawn at random. Each further one has the largest sum of Hamming distances to those
    before it (Noroozi & Favaro 2016, algorithm 1, with the mean over the chosen ones as in the
    released code); of several the first in lexicographic order.

    Args:
      count: number of permutations.
      seed: of the first one.

    Returns:
      uint8 [count 9], all different; the array is read-only.

    Raises:
      ValueError: there are fewer permutations, or `count` is below 1.
    """
    if not 1 <= count <= TOTAL:
        raise ValueError(f"cannot choose {count} of {TOTAL} permutations")
    candidates = _all()
    # Equal positions with all chosen ones: the fewer, the larger the sum of distances.
    agreements = np.zeros(TOTAL, np.int32)
    taken = np.int32(COUNT * count + 1)  # more than any candidate has
    index = int(np.random.default_rng(seed).integers(TOTAL))
    chosen = np.empty((count, COUNT), np.uint8)
    for i in range(count):
        chosen[i] = candidates[:, index]
        agreements[index] = taken
        equal = (candidates[0] == chosen[i, 0]).view(np.uint8)
        for position in range(1, COUNT):
            equal += (candidates[position] == chosen[i, position]).view(np.uint8)
        agreements += equal
        index = int(np.argmin(agreements))
    chosen.flags.writeable = False
    return chosen


def hamming_distances(permutations: np.ndarray) -> np.ndarray:
    """Distances between all pairs, int [count (count - 1) / 2]."""
    differs = permutations[:, None] != permutations[None]  # (count, count, 9)
    return differs.sum(axis=2)[np.triu_indices(len(permutations), 1)]
