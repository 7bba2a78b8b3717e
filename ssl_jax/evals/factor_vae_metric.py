"""FactorVAE metric: which code varies least if a factor is fixed? (Kim & Mnih 2018, Sec. 4)

A vote is drawn as follows: one factor k is chosen, and 64 examples that share a value of it. The
variance of each code over them is divided by its variance over all examples, and the code d with
the smallest ratio is found: the vote is (d, k). The classifier predicts for each code d the factor
with most training votes (d, k). The score is its accuracy on test votes.

The score is 1 if each factor is the only one that determines some code, and about 1 / number of
factors for codes without information. Numbers of votes, and the exclusion of codes with a standard
deviation below 0.05, are those of disentanglement_lib (Locatello et al. 2019). The limit is meant
for latents with a prior of variance 1. For other features set `min_std` to their scale.

The images are rendered if the data set can do that: the value of the factor is drawn for each vote,
and everything else for each image. Otherwise the votes are drawn from the examples of a finite
split, see `ssl_jax.evals.shared_factor`: a value that fewer than 64 examples have is never the
fixed one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float, Int

from ssl_jax.config.fields import at_least, between, positive
from ssl_jax.core.errors import UserError
from ssl_jax.evals import shared_factor
from ssl_jax.evals.factors import FactorBins, evenly
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric

NEEDS = ("factors",)
METRICS = {
    "score": Metric("FactorVAE", "FactorVAE metric"),
    "score_train": Metric("FactorVAE, train", "FactorVAE metric on the train split", shown=False),
    "codes": Metric("codes", "codes that vary", unit="", better=None, shown=False),
}
_NAME = "factor_vae_metric"
_WAY_OUT = f"{shared_factor.MORE_EXAMPLES}, or set a smaller batch_size"


def evaluate(
    train: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
    train_votes: Annotated[
        int, between(1, 100_000), "Votes of the train split that the classifier is fitted on."
    ] = 10_000,
    test_votes: Annotated[
        int, between(1, 100_000), "Votes of the test split that it is scored on."
    ] = 5_000,
    batch_size: Annotated[
        int, between(2, 256), "Examples of a vote, which share a value of one factor."
    ] = 64,
    variance_examples: Annotated[
        int, at_least(2), "Maximum number of train examples for the variance of each code."
    ] = 10_000,
    min_std: Annotated[
        float, positive, "Codes with a smaller standard deviation are left out."
    ] = 0.05,
    factor_bins: FactorBins = 10,
    rendered: shared_factor.Rendered | None = None,
    rendered_images: shared_factor.RenderedImages = 100_000,
) -> dict[str, float]:
    """Collects the votes of both splits, and fits the classifier to those of train.

    It takes about half a second on one core for 10 codes, and ten seconds for 512. Images to render
    and encode take longer.

    Args:
      train, test: `h` float [n d], one code per column; `factors` float [n f].
      seed: seed of the votes.
      train_votes, test_votes: numbers of votes.
      batch_size: examples of a vote.
      variance_examples: maximum number of train examples for the variances over all examples.
      min_std: smallest standard deviation of a code that is used.
      factor_bins: classes of a continuous factor, in a finite split.
      rendered: draws and encodes new examples; None: the votes are those of the splits.
      rendered_images: maximum number of images to render.

    Returns:
      `score` and `score_train`, accuracies; `codes`, the number of codes that are used.

    Raises:
      UserError: no code has the standard deviation `min_std`; fewer than two factors vary, or have
        a value that `batch_size` examples of each split share.
    """
    splits, counts = (train, test), (train_votes, test_votes)
    if rendered is None:
        factors = [np.asarray(split["factors"]) for split in splits]
        groups, _ = shared_factor.grouped(_NAME, factors, factor_bins, batch_size, _WAY_OUT)
        num_factors = len(groups[0].count)
    else:
        groups, columns = (None, None), rendered.varying()
        num_factors = len(columns)
        counts = shared_factor.affordable(counts, batch_size, rendered_images)
    rows = evenly(len(train["h"]), variance_examples)
    variance = np.var(np.asarray(train["h"])[rows], axis=0, ddof=1, dtype=np.float64)
    used = np.sqrt(variance) >= min_std
    if not used.any():
        raise UserError(
            f"{_NAME}: all {len(used)} codes have a standard deviation below "
            f"min_std={min_std:g}; the largest is {np.sqrt(variance.max()):.3g}"
        )
    votes = []
    generators = np.random.default_rng(seed).spawn(2)
    for split, group, count, rng in zip(splits, groups, counts, generators, strict=True):
        factor = rng.integers(0, num_factors, count)
        if rendered is None:
            batches = group.batches(factor, batch_size, rng)
            code = least_varying(np.asarray(split["h"])[:, used], variance[used], batches)
        else:
            blocks = rendered.batches(columns[factor], batch_size, rng)
            code = np.concatenate([_least(codes[..., used], variance[used]) for codes in blocks])
        votes.append(_counts(code, factor, int(used.sum()), num_factors))
    predicted = np.argmax(votes[0], axis=1)  # [d], the factor of each code
    train_accuracy, accuracy = (
        float(count[np.arange(len(predicted)), predicted].sum() / count.sum()) for count in votes
    )
    return {"score": accuracy, "score_train": train_accuracy, "codes": float(used.sum())}


def check(
    known: Known,
    *,
    batch_size: int,
    factor_bins: int,
    train_votes: int,
    test_votes: int,
    rendered_images: int,
    **options: Any,
) -> str:
    """A note on where the votes come from, and on factors that are left out.

    Raises:
      UserError: fewer than two factors vary, or have a value that `batch_size` examples share.
    """
    del options
    if known.test.renderer is not None:
        counts = train_votes, test_votes
        return shared_factor.rendering_note(_NAME, counts, batch_size, rendered_images, "votes")
    return shared_factor.check(_NAME, known, factor_bins, batch_size, _WAY_OUT)


def least_varying(
    codes: Float[np.ndarray, "n d"],
    variance: Float[np.ndarray, " d"],
    batches: Int[np.ndarray, "c b"],
) -> Int[np.ndarray, " c"]:
    """The code with the smallest variance in each batch, relative to its variance over all.

    Args:
      codes: codes of all examples.
      variance: variance of each code, positive.
      batches: numbers of the examples of each batch.

    Returns:
      Numbers of codes; the first one of those with equal variances.
    """
    parts = shared_factor.blocks(len(batches), batches.shape[1] * codes.shape[1])
    return np.concatenate([_least(codes[batches[part]], variance) for part in parts])


def _least(
    codes: Float[np.ndarray, "c b d"], variance: Float[np.ndarray, " d"]
) -> Int[np.ndarray, " c"]:
    """As `least_varying`, from the codes of the examples of each batch."""
    return np.argmin(np.var(codes, axis=1, ddof=1, dtype=np.float64) / variance, axis=1)


def _counts(
    code: Int[np.ndarray, " c"], factor: Int[np.ndarray, " c"], num_codes: int, num_factors: int
) -> Int[np.ndarray, "d k"]:
    """The number of votes for each code and factor."""
    votes = np.bincount(code * num_factors + factor, minlength=num_codes * num_factors)
    return votes.reshape(num_codes, num_factors)
