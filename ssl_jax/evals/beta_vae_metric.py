"""beta-VAE metric: does the difference of two codes tell which factor they share? (Higgins et al.
2017, Sec. 3)

A point is drawn as follows: one factor k is chosen, and 64 pairs of examples that share its value.
The mean over the pairs of |z_1 - z_2| is the input [d] of a linear classifier of k. The score is
the accuracy of the classifier on test points. It is 1 if each factor is the only one that
determines some code, and about 1 / number of factors for codes without information. A linear
mixture of the factors may have a high score too (Kim & Mnih 2018, Sec. 4).

Numbers of points, and the classifier, scikit-learn's logistic regression with default options, are
those of disentanglement_lib (Locatello et al. 2019). Codes are not scaled, so that its penalty
depends on their scale.

The images are rendered if the data set can do that: a value of the factor is drawn for each pair,
and everything else for each image. Otherwise the pairs are drawn from the examples of a finite
split, see `ssl_jax.evals.shared_factor`: two different examples form a pair, and a value that only
one example has is never shared.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float, Int

from ssl_jax.config.fields import between
from ssl_jax.evals import shared_factor
from ssl_jax.evals.factors import FactorBins
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric

NEEDS = ("factors",)
METRICS = {
    "score": Metric("beta-VAE", "beta-VAE metric"),
    "score_train": Metric("beta-VAE, train", "beta-VAE metric on the train split", shown=False),
}
_NAME = "beta_vae_metric"


def evaluate(
    train: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
    train_points: Annotated[
        int, between(100, 100_000), "Points of the train split that the classifier is fitted on."
    ] = 10_000,
    test_points: Annotated[
        int, between(1, 100_000), "Points of the test split that it is scored on."
    ] = 5_000,
    pairs: Annotated[
        int, between(1, 256), "Pairs of examples that are averaged to one point."
    ] = 64,
    factor_bins: FactorBins = 10,
    rendered: shared_factor.Rendered | None = None,
    rendered_images: shared_factor.RenderedImages = 100_000,
) -> dict[str, float]:
    """Fits the classifier to points of train and scores it on points of test.

    It takes about two seconds on one core for 10 codes, and up to a minute for 512. Images to
    render and encode take longer.

    Args:
      train, test: `h` float [n d], one code per column; `factors` float [n f].
      seed: seed of the pairs.
      train_points, test_points: numbers of points.
      pairs: pairs of examples of a point.
      factor_bins: classes of a continuous factor, in a finite split.
      rendered: draws and encodes new examples; None: the points are those of the splits.
      rendered_images: maximum number of images to render.

    Returns:
      `score` and `score_train`, accuracies.

    Raises:
      UserError: fewer than two factors vary, or have a value that two examples of each split share.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression  # takes a second to import

    splits, counts = (train, test), (train_points, test_points)
    if rendered is None:
        factors = [np.asarray(split["factors"]) for split in splits]
        groups, _ = shared_factor.grouped(_NAME, factors, factor_bins, smallest=2)
        num_factors = len(groups[0].count)
    else:
        groups, columns = (None, None), rendered.varying()
        num_factors = len(columns)
        counts = shared_factor.affordable(counts, 2 * pairs, rendered_images)
    inputs, labels = [], []
    generators = np.random.default_rng(seed).spawn(2)
    for split, group, count, rng in zip(splits, groups, counts, generators, strict=True):
        factor = rng.integers(0, num_factors, count)
        if rendered is None:
            means = mean_difference(np.asarray(split["h"]), *group.pairs(factor, pairs, rng))
        else:
            blocks = rendered.pairs(columns[factor], pairs, rng)
            means = np.concatenate([
                np.abs(first.astype(np.float64) - second).mean(axis=1) for first, second in blocks
            ])  # fmt: skip
        inputs.append(means)
        labels.append(factor)
    model = LogisticRegression()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 100 iterations, as published
        model.fit(inputs[0], labels[0])
    train_accuracy, accuracy = (
        float(np.mean(model.predict(split) == label))
        for split, label in zip(inputs, labels, strict=True)
    )
    return {"score": accuracy, "score_train": train_accuracy}


def check(
    known: Known,
    *,
    factor_bins: int,
    train_points: int,
    test_points: int,
    pairs: int,
    rendered_images: int,
    **options: Any,
) -> str:
    """A note on where the pairs come from, and on factors that are left out.

    Raises:
      UserError: fewer than two factors vary, or have a value that two examples share.
    """
    del options
    if known.test.renderer is not None:
        counts = train_points, test_points
        return shared_factor.rendering_note(_NAME, counts, 2 * pairs, rendered_images, "points")
    return shared_factor.check(_NAME, known, factor_bins, smallest=2)


def mean_difference(
    codes: Float[np.ndarray, "n d"],
    first: Int[np.ndarray, "c b"],
    second: Int[np.ndarray, "c b"],
) -> Float[np.ndarray, "c d"]:
    """Mean over pairs of |z_1 - z_2|, float64.

    Args:
      codes: codes of all examples.
      first, second: numbers of the examples of b pairs for each of c points.
    """
    parts = shared_factor.blocks(len(first), first.shape[1] * codes.shape[1])
    return np.concatenate(
        [
            np.abs(codes[first[part]].astype(np.float64) - codes[second[part]]).mean(axis=1)
            for part in parts
        ]
    )
