"""Computes what the report page shows from `Method.show`, for a few examples."""

from __future__ import annotations

import jax
import numpy as np

from ssl_jax import data, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Item
from ssl_jax.core.method import Weights
from ssl_jax.experiment.build import Experiment, held_out_keys
from ssl_jax.run.probing import Prober

_SHOWN_EXAMPLES = 6


def shown_items(
    experiment: Experiment, prober: Prober, w: Weights, source: data.Source
) -> dict[str, Item]:
    """`Method.show` of a few examples, as NumPy arrays.

    The examples come from the test split if it has the arrays that the method trains on, else from
    the training data. They are masked as in the held-out evaluation.

    Args:
      experiment: the experiment that ran.
      prober: gives the test split.
      w: the weights.
      source: the training data.
    """
    examples = _examples(prober, source)
    rows = np.linspace(0, len(examples) - 1, min(_SHOWN_EXAMPLES, len(examples))).astype(int)
    batch = examples.batch(rows)
    items = jax.jit(experiment.method.show)(w, held_out_keys(batch["index"]), batch)
    return parallel.gather(items)


def _examples(prober: Prober, source: data.Source) -> data.Source:
    try:
        test = prober.test
    except UserError:  # the test split does not exist
        return source
    return test if test.spec.arrays == source.spec.arrays else source
