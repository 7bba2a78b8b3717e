"""How well a method predicts what is hidden of examples that it was not trained on.

The scores are the method's own (`Method.held_out`): of a masked language model the share of masked
tokens it names and their perplexity. Beside them stands what needs no model: the frequency of each
token in the training text, asked for the same hidden tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

Rows = Mapping[str, np.ndarray]


def scores(rows: Rows) -> dict[str, float]:
    """Metrics over all examples, from what `Method.held_out` says of each.

    Args:
      rows: arrays with one row an example; `count`, `loss` and `hits` [n], or one of the two
        latter, perhaps behind a prefix ("next_count").

    Returns:
      For each prefix: `loss`, mean over what is predicted, nats; `perplexity`, its exponential;
      `accuracy` in [0, 1]. A task of which nothing was asked is left out.
    """
    found = {}
    for key in rows:
        prefix = key.removesuffix("count")
        count = float(np.sum(rows[key], dtype=np.float64)) if prefix != key else 0
        if not count:
            continue
        if f"{prefix}loss" in rows:
            loss = float(np.sum(rows[f"{prefix}loss"], dtype=np.float64)) / count
            found[f"{prefix}loss"] = loss
            found[f"{prefix}perplexity"] = math.exp(min(loss, 700.0))
        if f"{prefix}hits" in rows:
            found[f"{prefix}accuracy"] = float(np.sum(rows[f"{prefix}hits"])) / count
    return found


def unigram(rows: Rows, counts: np.ndarray) -> dict[str, float]:
    """The same metrics of guessing every hidden token by its frequency alone.

    Args:
      rows: `targets` int [n p] and `weights` [n p] of `Method.held_out`.
      counts: int [v], of each token in the training text. One is added to each, so that a token
        that never occurred there is not impossible.

    Returns:
      `loss`, `perplexity`, and `accuracy` of always saying the most frequent token.
    """
    asked = rows["weights"] > 0
    targets, weights = rows["targets"][asked], rows["weights"][asked].astype(np.float64)
    smoothed = counts.astype(np.float64) + 1
    surprise = np.log(smoothed.sum()) - np.log(smoothed)
    return scores(
        {
            "count": weights,
            "loss": weights * surprise[targets],
            "hits": weights * (targets == counts.argmax()),
        }
    )
