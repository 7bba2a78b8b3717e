"""Computes what the report page shows of a few examples.

These are the items of `Method.show`, and activation maps if the encoder is a convolutional net of
images.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import data, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Images, Item
from ssl_jax.core.method import Batch, Method, Weights
from ssl_jax.experiment.build import Experiment, held_out_keys
from ssl_jax.models.activation_maps import activation_maps
from ssl_jax.run.probing import Prober

_SHOWN_EXAMPLES = 6


def shown_items(
    experiment: Experiment, prober: Prober, w: Weights, source: data.Source
) -> dict[str, Item]:
    """The items of a few examples, as NumPy arrays.

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
    method = experiment.method

    def show(w: Weights, keys: jax.Array, batch: Batch) -> dict[str, Item]:
        return {**method.show(w, keys, batch), **_activations(method, w, batch)}

    return parallel.gather(jax.jit(show)(w, held_out_keys(batch["index"]), batch))


def _activations(method: Method, w: Weights, batch: Batch) -> dict[str, Item]:
    """Activation maps of the stages of a convolutional net; nothing for others and host crops."""
    if "image" not in batch:
        return {}
    maps = activation_maps(method.layers(w, batch), batch["image"].shape[1:3])
    if not maps:
        return {}
    item = Images(
        jnp.stack(list(maps.values()), axis=1)[..., None],
        inputs=batch["image"],
        columns=tuple(maps),
        note="Power of the activations of each stage, the mean of their squares over channels; "
        "white: the maximum of the map.",
    )
    return {"Activation maps": item}


def _examples(prober: Prober, source: data.Source) -> data.Source:
    try:
        test = prober.test
    except UserError:  # the test split does not exist
        return source
    return test if test.spec.arrays == source.spec.arrays else source
