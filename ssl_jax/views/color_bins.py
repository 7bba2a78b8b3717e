"""The colours of a pixel as classes: 313 bins of a and b (Zhang et al. 2016, Sec. 2.1).

The bins are the points of a grid with a spacing of 10 that are near colours of sRGB. The paper
counts 313 of them and does not state its rule. Here a bin belongs to the gamut if the distance in
the plane of a and b from the bin to the nearest colour of sRGB, of any lightness, is at most 13.5.
All limits from 13.3 to 13.7 give the same 313 bins. They are computed, so single bins at the edge
of the gamut differ from those of the released list. (261 bins are nearest to some colour; 309 are
corners of grid cells that contain one.)
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ssl_jax.core.arrays import Array
from ssl_jax.views.lab import rgb_to_lab

GRID = 10
LIMIT = 13.5  # largest distance from a bin to the gamut
NUM_BINS = 313
_EXTENT = 120  # largest |a| and |b| of a candidate
_LEVELS = 65  # of each channel, on the surface of the RGB cube


@functools.cache
def in_gamut_bins() -> np.ndarray:
    """The centres (a, b) of the bins, float32 [313 2], sorted by a, then by b."""
    axis = np.arange(-_EXTENT, _EXTENT + 1, GRID, dtype=np.float64)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    # Every (a, b) of the gamut is that of a colour on the surface of the RGB cube: a change of L
    # alone leaves the cube there.
    u, v = (x.ravel() for x in np.meshgrid(*(np.linspace(0, 1, _LEVELS),) * 2))
    squared = np.full(len(grid), np.inf)
    for channel in range(3):
        for value in (0.0, 1.0):
            rgb: Any = np.insert(np.stack([u, v], axis=-1), channel, value, axis=-1)
            ab = rgb_to_lab(rgb, xp=np)[:, 1:]
            to_face = np.sum((grid[:, None] - ab) ** 2, axis=-1).min(axis=1)
            squared = np.minimum(squared, to_face)
    bins = grid[squared <= LIMIT**2].astype(np.float32)
    bins.setflags(write=False)
    return bins


def soft_encode(
    ab: Float[Array, "... 2"], bins: Float[Array, "q 2"], *, neighbours: int, sigma: float
) -> Float[Array, "... q"]:
    """The target distribution of pixels over the bins (Sec. 2.1).

    Its weights are those of a Gaussian on the `neighbours` nearest bins; others have 0. Of bins at
    equal distance, the first are nearest.

    Args:
      ab: a and b of pixels.
      bins: a and b of the bins.
      neighbours: number of bins with a weight (the paper: 10).
      sigma: standard deviation of the Gaussian (the paper: 5).

    Returns:
      float32, sums to 1; the largest is that of the nearest bin.
    """
    ab = jnp.asarray(ab, jnp.float32)
    squared = sum(jnp.square(ab[..., i, None] - bins[:, i]) for i in range(2))  # (... q)
    # Compared with its own values below: it must not be computed twice with different rounding.
    squared = jax.lax.optimization_barrier(squared)
    negative, index = jax.lax.top_k(-squared, neighbours)
    limit, last = -negative[..., -1:], index[..., -1:]  # of the farthest neighbour
    is_tied = (squared == limit) & (jnp.arange(len(bins)) <= last)
    # A softmax is the normalised Gaussian, also for colours far from all bins.
    return jax.nn.softmax(-squared / (2 * sigma**2), axis=-1, where=(squared < limit) | is_tied)


def decode(
    logits: Float[Array, "... q"], bins: Float[Array, "q 2"], *, temperature: float
) -> Float[Array, "... 2"]:
    """The annealed mean of predicted distributions (Sec. 2.3).

        sum over bins of softmax(logits / T) (a, b)

    T -> 0 gives the most probable bin, T = 1 the mean. The paper uses 0.38.

    Args:
      logits: log probabilities of the bins, up to a constant.
      bins: a and b of the bins.
      temperature: T, above 0.

    Returns:
      a and b, float32.
    """
    logits = jnp.asarray(logits, jnp.float32)
    probabilities = jax.nn.softmax(logits / temperature, axis=-1)
    return jnp.stack([jnp.sum(probabilities * bins[:, i], axis=-1) for i in range(2)], axis=-1)
