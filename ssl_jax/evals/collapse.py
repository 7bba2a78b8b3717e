"""Is a representation collapsing? Diagnostics of embeddings, and a monitor that warns in training.

Complete collapse: every example gets the same embedding, the spread `std_z` goes to 0.
Dimensional collapse: embeddings differ, but along a few directions only; the effective rank is low.

Sources: RankMe, Garrido et al. 2023, Eq. 1; effective rank, Roy & Vetterli 2007; alignment and
uniformity, Wang & Isola 2020, Sec. 4; spread of normalised outputs, SimSiam, Chen & He 2021, Fig. 2.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

NEEDS_LABELS = False
_PAIRS = 2**22  # float32 of one block of squared distances: 16 MiB


def diagnostics(
    z: Array | None = None, h: Array | None = None, *, max_rows: int = 4096
) -> dict[str, Array]:
    """Measures embeddings of one batch. Jittable; everything is computed in float32.

    Args:
      z: projections [n v d] of v views of n examples, not necessarily normalised.
      h: features [n d].
      max_rows: singular values and pairs are taken over the first so many examples.

    Returns:
      Float32 scalars, as far as z and h are given and v and n suffice:
      `rankme_z`, `effective_rank_z` of view 1's [n d], `rankme_h`, `effective_rank_h`: between 1
      and min(n, d). A batch smaller than d bounds them: compare equal batches only.
      `std_z`: spread of z over all examples and views, see `spread`; 0 = collapsed, 1 = uniform.
      `alignment`, the mean over pairs of views, and `uniformity`, the mean over views.
    """
    values: dict[str, Array] = {}
    if h is not None:
        values |= _ranks(h[:max_rows], "h")
    if z is not None:
        z = z[:max_rows].astype(jnp.float32)
        values |= _ranks(z[:, 0], "z")
        unit = _unit(z)
        views = [unit[:, view] for view in range(z.shape[1])]
        values["std_z"] = spread(z.reshape(-1, z.shape[-1]))
        if len(views) > 1:
            pairs = [alignment(a, b) for a, b in itertools.combinations(views, 2)]
            values["alignment"] = jnp.stack(pairs).mean()
        if z.shape[0] > 1:
            values["uniformity"] = jnp.stack([uniformity(view) for view in views]).mean()
    return values


def evaluate(
    train: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    *,
    num_classes: int | None,
    seed: int = 0,
    devices: Sequence[jax.Device] | None = None,
    max_rows: int = 25600,
) -> dict[str, float]:
    """Ranks, spread and uniformity of the train features `h` [n d]; needs no labels.

    Args:
      train, test: only `h` of train is used.
      num_classes, seed: not used.
      devices: the first one computes.
      max_rows: examples taken, at equal distances through the split; RankMe takes 25,600.
    """
    del test, num_classes, seed
    h = train["h"]
    taken = np.linspace(0, len(h) - 1, min(max_rows, len(h))).astype(int)
    with jax.default_device(devices[0] if devices else None):
        h = jnp.asarray(h[taken])
        values = _ranks(h, "h") | {"std_h": spread(h), "uniformity_h": uniformity(_unit(h))}
    return {name: float(value) for name, value in values.items()}


def rankme(singular_values: Array, epsilon: float = 1e-7) -> Array:
    """exp(-sum p log p), p = s / sum(s) + epsilon, which is not normalised again (RankMe, Eq. 1).

    Args:
      singular_values: s float32 [d] of embeddings that are not centred.
      epsilon: 0 gives the effective rank of Roy & Vetterli, with 0 log 0 = 0.
    """
    s = singular_values
    p = s / jnp.maximum(jnp.sum(s), jnp.finfo(s.dtype).tiny) + epsilon
    return jnp.exp(jnp.sum(jax.scipy.special.entr(p)))


def spread(x: Array) -> Array:
    """Standard deviation of the normalised rows of [n d], mean over dimensions, times sqrt(d).

    1 for directions uniform on the sphere, 0 for equal ones.
    """
    unit = _unit(x.astype(jnp.float32))
    return jnp.std(unit, axis=0).mean() * math.sqrt(x.shape[-1])


def alignment(x: Array, y: Array, alpha: float = 2.0) -> Array:
    """Mean ||x_i - y_i||^alpha of unit vectors [n d]: 0 = views of one example agree."""
    square = jnp.sum(jnp.square(x - y), axis=-1)
    return jnp.mean(square ** (alpha / 2))


def uniformity(x: Array, t: float = 2.0) -> Array:
    """log of the mean over i < j of exp(-t ||x_i - x_j||^2), of unit vectors [n d], n > 1.

    0 = all equal; lower is more uniform. Works through blocks of rows.
    """
    n = x.shape[0]
    rows = max(1, min(n, _PAIRS // n))

    def similarity(row: Array) -> Array:
        """Sum over j != i of exp(-t d_ij^2) for one i."""
        cosine = jnp.einsum("nd,d->n", x, x[row], precision=jax.lax.Precision.HIGHEST)
        # Rounding can push a cosine past 1. The diagonal is masked, not subtracted.
        potential = jnp.exp(-t * jnp.maximum(2.0 - 2.0 * cosine, 0.0))
        return jnp.sum(jnp.where(jnp.arange(n) == row, 0.0, potential))

    sums = jax.lax.map(similarity, jnp.arange(n), batch_size=rows)
    return jnp.log(jnp.mean(sums) / (n - 1))


def _unit(x: Array) -> Array:
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _ranks(x: Array, name: str) -> dict[str, Array]:
    # Singular values proper: eigenvalues of the Gram matrix would drown those below 3e-4 of the
    # largest in float32 rounding, and with them the entropy of a low rank.
    s = jnp.linalg.svd(x.astype(jnp.float32), compute_uv=False)
    return {f"rankme_{name}": rankme(s), f"effective_rank_{name}": rankme(s, epsilon=0.0)}
