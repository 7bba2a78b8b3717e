"""Mutual information gap: is each factor encoded in a single code? (Chen et al. 2018, Sec. 4)

    MIG = mean over factors v of [I(z_1; v) - I(z_2; v)] / H(v)

z_1 and z_2 are the codes with the largest and second largest mutual information with v. MIG is 1 if
each factor is determined by exactly one code, and 0 if the two codes have equal information.

The estimate is that of disentanglement_lib (Locatello et al. 2019): a code is divided into 20 bins
of equal width between its smallest and largest value, and information is that of the joint
histogram.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float, Int

from ssl_jax.config.fields import at_least, positive
from ssl_jax.evals.factors import (
    FactorBins,
    as_classes,
    check_varying,
    evenly,
    gap,
    varying,
)
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric

NEEDS = ("factors",)
METRICS = {
    "score": Metric("MIG", "mutual information gap", unit=""),
    "information": Metric(
        "information", "share of a factor's information in the best code", shown=False
    ),
    "gap_{factor}": Metric("MIG of {factor}", unit="", shown=False),
}


def evaluate(
    test: Mapping[str, np.ndarray],
    *,
    factor_names: Sequence[str] = (),
    max_examples: Annotated[
        int, positive, "Maximum number of examples, evenly spaced in the split."
    ] = 10_000,
    bins: Annotated[int, at_least(2), "Bins of a code, of equal width."] = 20,
    factor_bins: FactorBins = 10,
) -> dict[str, float]:
    """The gap on the test split; nothing is fitted.

    Args:
      test: `h` float [n d], one code per column; `factors` float [n f].
      factor_names: names of the factors; without names the gaps of single factors are left out.
      max_examples: maximum number of examples, evenly spaced in the split.
      bins: bins of a code.
      factor_bins: classes of a continuous factor.

    Returns:
      `score`, the gap; `information`, the mean over factors of I(z_1; v) / H(v); and the gap of
      each factor, such as `gap_shape`. Constant factors are left out.

    Raises:
      UserError: no factor varies.
    """
    rows = evenly(len(test["h"]), max_examples)
    values = np.asarray(test["factors"])[rows]
    (factors,) = as_classes([values], factor_bins)
    codes = discretize(np.asarray(test["h"])[rows], bins)
    information = np.array(
        [[mutual_information(code, factor) for factor in factors.T] for code in codes.T]
    )  # [d f]
    entropy = np.array([mutual_information(factor, factor) for factor in factors.T])
    gaps = gap(information) / entropy
    names = [factor_names[number] for number in varying(values)] if factor_names else []
    return {
        "score": float(np.mean(gaps)),
        "information": float(np.mean(information.max(axis=0) / entropy)),
        **{f"gap_{name}": float(gaps[number]) for number, name in enumerate(names)},
    }


def check(known: Known, **options: Any) -> None:
    """Raises UserError if no factor varies."""
    del options
    check_varying(known.test)


def measures(known: Known, **options: Any) -> tuple[str, ...]:
    """Names of the metrics: with factor names, one for each factor that varies."""
    del options
    names = getattr(known.test, "factor_names", None) or ()
    return (
        "score",
        "information",
        *(f"gap_{names[number]}" for number in varying(known.test.read_factors()) if names),
    )


def discretize(codes: Float[np.ndarray, "n l"], bins: int) -> Int[np.ndarray, "n l"]:
    """Divides each column into `bins` intervals of equal width: int [n l], from 0."""
    columns = [np.digitize(code, np.histogram(code, bins)[1][:-1]) - 1 for code in codes.T]
    return np.stack(columns, axis=1)


def mutual_information(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " n"]) -> float:
    """Mutual information of two arrays of classes from 0, nats."""
    size = int(b.max()) + 1
    joint = np.bincount(a * size + b, minlength=(int(a.max()) + 1) * size).reshape(-1, size)
    joint = joint / len(a)
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    nonzero = joint > 0
    return float(np.sum(joint[nonzero] * np.log(joint[nonzero] / independent[nonzero])))
