"""What a method shows of itself on the report page."""

from __future__ import annotations

import jax
import numpy as np

from ssl_jax import data, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Item
from ssl_jax.core.method import Weights
from ssl_jax.experiment.build import Experiment, question_keys
from ssl_jax.run.probing import Prober

_SHOWN_EXAMPLES = 6  # of which the method shows something


def shown_items(
    experiment: Experiment, prober: Prober, w: Weights, source: data.Source
) -> dict[str, Item]:
    """What the method shows of a few examples, as NumPy arrays: see `Method.show`.

    They are of the test split, where it has the arrays that the method is trained on, else of the
    training data. What is hidden of an example is the same as in the evaluation.

    Args:
      experiment: what ran.
      prober: of the splits.
      w: the weights.
      source: the training data.
    """
    examples = _examples(prober, source)
    rows = np.linspace(0, len(examples) - 1, min(_SHOWN_EXAMPLES, len(examples))).astype(int)
    batch = examples.batch(rows)
    items = jax.jit(experiment.method.show)(w, question_keys(batch["index"]), batch)
    return parallel.gather(items)


def _examples(prober: Prober, source: data.Source) -> data.Source:
    try:
        test = prober.test
    except UserError:  # there is no such split, and nothing is scored
        return source
    return test if test.spec.arrays == source.spec.arrays else source
