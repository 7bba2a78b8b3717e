"""Feature reuse: the similarity (CKA) of each layer before and after training.

Of a fine-tuned run it says which layers keep the features that they were given: Transfusion (Raghu
et al. 2019, section 4) finds that little more than the lowest ones do, and that layers of large
nets change little from random weights, too. So a pretrained run stands beside one from random
weights.

It is computed at the end of a run, from the weights that the run began with.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import jax
import numpy as np

from ssl_jax.config.fields import at_least
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Batch, DataSpec, Method
from ssl_jax.evals.cka import linear_cka
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.model import Model

NEEDS = ()
FITS = False
METRICS = {
    "{layer}": Metric("CKA {layer}", "CKA of {layer} before and after training", "", None),
}


def applies(method: Method, spec: DataSpec) -> bool:
    """Whether the method says the outputs of its encoder's layers."""
    del spec
    return type(method).layers is not Method.layers


def measures(known: Known, **options: Any) -> tuple[str, ...]:
    """None that could choose a checkpoint: it is computed once, at the end of a run."""
    del known, options
    return ()


def evaluate_model(
    model: Model,
    prober: Any,
    *,
    max_examples: Annotated[
        int, at_least(2), "Maximum number of test examples, evenly spaced."
    ] = 512,
    patches: Annotated[
        Literal["all", "mean"],
        "Compare the outputs at all positions of an image, or their mean over positions.",
    ] = "all",
) -> dict[str, float]:
    """Linear CKA of each layer or stage by its name, in [0, 1].

    Raises:
      UserError: the weights that the run began with are not known.
    """
    if model.start is None:
        raise UserError(
            "reuse compares the end of a run with its start, which is known in the run only; name "
            "it in eval.final_names"
        )
    subset = prober.evenly(prober.test, max_examples)
    start = _layers(model.start(), prober, subset, patches)
    end = _layers(model, prober, subset, patches)
    return {name: linear_cka(start[name], end[name]) for name in sorted(start)}


def _layers(
    model: Model, prober: Any, subset: np.ndarray | None, patches: str
) -> dict[str, np.ndarray]:
    """The outputs of each layer, float32 [n d]."""

    @jax.jit
    def outputs(weights: Any, batch: Batch) -> dict[str, jax.Array]:
        layers = model.method.layers(weights, batch)
        return {
            name: layer.patches.mean(axis=1) if patches == "mean" else layer.patches
            for name, layer in layers.items()
        }

    def encode(batch: Batch) -> dict[str, jax.Array]:
        return outputs(model.weights, batch)

    rows = prober.features(encode, prober.test, subset, targets=())
    del rows["index"]
    return {name: array.reshape(len(array), -1) for name, array in rows.items()}
