"""Regression: predicts a number per text or pair of texts, such as similarity (STS-B of GLUE).

    text -> h = f(text) -> y -> (y - target)^2

The loss is the mean over the texts with a target (not NaN) of the global batch. It does not depend
on how devices and micro-batches split the batch. Encoder and head are those of
`methods.base.labelled`: BERT (Devlin et al. 2018, section 4.1) uses the head of classification with
one output.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Aux, Batch, DataSpec, PyTree, Weights, hyper_parameters
from ssl_jax.losses.labels import squared_error
from ssl_jax.methods.base.labelled import HyperParameters, Labelled, check_task, make_parts


@dataclasses.dataclass(frozen=True)
class Regression(Labelled):
    """Mean squared error."""

    title: ClassVar[str] = "regression"
    decomposes: ClassVar[bool] = True
    targets: ClassVar[tuple[str, ...]] = ("target",)

    def score(self, outputs: Array, views: PyTree) -> dict[str, Array]:
        errors, weights = squared_error(outputs[:, 0], views["target"])
        return {"errors": errors, "weights": weights}

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        count = encoded["weights"].sum()
        loss = encoded["errors"].sum() / jnp.maximum(count, 1)
        return loss, Aux(w.buffers, {"mse": loss}, {"h": encoded["h"]}, count)

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """`h` [n d] and the `prediction` [n]."""
        (h, y), _ = self.forward(w.params, w.buffers, self.view.evaluate(batch), train=False)
        return {"h": h, "prediction": y[:, 0]}

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        return [("loss", "mean squared error"), *super().preflight(batch_size)]


def make(config: Any, spec: DataSpec, length: Length) -> Regression:
    """Builds the method from the config's sections method and model."""
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    check_task(config, spec, "regress")
    return Regression(**make_parts(config, spec, hyper, num_outputs=1))
