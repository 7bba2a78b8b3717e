"""Counts the active latents of a variational autoencoder (Burda et al. 2015, Sec. 5.1).

A latent u is active if the mean of its posterior differs between images:

    Var over images x of E_q[u | x]  >  0.01

An inactive latent has collapsed to the prior: the decoder does not use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np

from ssl_jax.config.fields import positive
from ssl_jax.evals.metric import Metric
from ssl_jax.losses.variational import ACTIVE_VARIANCE

NEEDS = ()
METRICS = {
    "count": Metric("active", "active latents", unit=""),
    "share": Metric("active share", "share of the latents that are active", shown=False),
}


def evaluate(
    test: Mapping[str, np.ndarray],
    *,
    threshold: Annotated[
        float, positive, "Variance above which a latent is active."
    ] = ACTIVE_VARIANCE,
) -> dict[str, float]:
    """Active latents on the test split.

    Args:
      test: `h` float [n d], the means of the posteriors.
      threshold: variance above which a latent is active.

    Returns:
      `count`, and `share` of the d latents.
    """
    active = np.var(np.asarray(test["h"], np.float64), axis=0) > threshold
    return {"count": float(active.sum()), "share": float(active.mean())}
