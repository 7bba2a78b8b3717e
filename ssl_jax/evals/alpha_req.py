"""alpha-ReQ: how fast the spectrum of the features falls.

Agrawal et al. 2022, "alpha-ReQ: Assessing Representation Quality in Self-Supervised Learning by
Measuring Eigenspectrum Decay". With the eigenvalues l_1 >= l_2 >= ... of the covariance of the
centred features,

    log l_r = -alpha log r + constant

is fitted by least squares with weights 1 / r over the ranks `first` to `last` (4 to 100, as in the
authors' later code). An alpha near 1 is best: a slower fall keeps noise, a faster one loses detail.
No label is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from jaxtyping import Float

from ssl_jax.config.fields import at_least
from ssl_jax.core.errors import UserError
from ssl_jax.evals.metric import Metric

NEEDS = ()
METRICS = {"alpha": Metric("alpha-ReQ", "decay of the spectrum", unit="", better=None)}
_LEAST = 1e-10  # eigenvalues below this share of the largest are rounding


def evaluate(
    train: Mapping[str, np.ndarray],
    *,
    first: Annotated[int, at_least(1), "First rank of the fit."] = 4,
    last: Annotated[int, at_least(2), "Last rank of the fit; less where there are fewer."] = 100,
) -> dict[str, float]:
    """The exponent of the train features.

    Args:
      train: `h` float [n d].
      first, last: ranks, from 1.

    Raises:
      UserError: the features have fewer than two eigenvalues from rank `first` on.
    """
    return {"alpha": alpha(spectrum(train["h"]), first=first, last=last)}


def spectrum(h: Float[np.ndarray, "n d"]) -> np.ndarray:
    """Eigenvalues of the covariance, descending, without those that are zero up to rounding."""
    h = np.asarray(h, np.float64)
    values = np.linalg.svd(h - h.mean(axis=0), compute_uv=False) ** 2 / max(len(h) - 1, 1)
    return values[values > _LEAST * values.max(initial=0.0)]


def alpha(values: Float[np.ndarray, " m"], *, first: int = 4, last: int = 100) -> float:
    """The exponent of a spectrum.

    Args:
      values: positive eigenvalues, descending.
      first, last: ranks of the fit, from 1.

    Raises:
      UserError: fewer than two of these ranks exist.
    """
    ranks = np.arange(first, min(last, len(values)) + 1)
    if len(ranks) < 2:
        raise UserError(
            f"alpha_req fits ranks {first} to {last}, but the features have {len(values)} "
            "eigenvalues that are not 0; set eval.alpha_req.first"
        )
    weight = 1 / ranks
    x, y = np.log(ranks), np.log(values[ranks - 1])
    x, y = x - np.average(x, weights=weight), y - np.average(y, weights=weight)
    return float(-(weight * x * y).sum() / (weight * x * x).sum())
