"""NNCLR: the nearest neighbours of a view are its positives (Dwibedi et al. 2021).

    x -> two random views -> z_i = g(f(view i)) / |.|,  p_i = q(z_i) / |.|
    loss = 1/2 [ InfoNCE(NN(z_1), p_2) + InfoNCE(NN(z_2), p_1) ]

f is the encoder, g the projector, q the predictor. NN(z) is the nearest row to z of a queue; it has
no gradient. The negatives are the predictions of the other images of the batch. The queue holds the
projections z_1 of the last batches. After the loss the projections of a step replace the oldest
ones.

There is no official code. The queue of z_1 only, and the order (search, then enqueue), are as in
solo-learn, lightly and stable-pretraining.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.config.fields import positive
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Aux, Batch, DataSpec, PyTree, Weights, hyper_parameters
from ssl_jax.methods.base.two_views import (
    TwoViews,
    check_batch_has_others,
    check_queue,
    nets_and_views,
)
from ssl_jax.models.heads import mlp_head

_QUEUE = 3  # folded into the key of `init`


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    queue_length: Annotated[int, positive, "Rows of the queue, a multiple of the batch."] = 98304
    temperature: Annotated[float, positive, "t, a divisor of similarities."] = 0.1
    hidden_dim: Annotated[int, positive, "Width of the two hidden layers of g."] = 2048
    output_dim: Annotated[int, positive, "Width of z and p."] = 256
    predictor_dim: Annotated[int, positive, "Width of the hidden layer of q."] = 4096


@dataclasses.dataclass(frozen=True)
class NNCLR(TwoViews):
    title: ClassVar[str] = "NNCLR"

    hyper: HyperParameters

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        params, buffers = super().init(key, batch)
        hyper = self.hyper
        queue_key = jax.random.fold_in(key, _QUEUE)
        return params, buffers | losses.init_queue(queue_key, hyper.queue_length, hyper.output_dim)

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key, step
        z, p = losses.unit_length(encoded["z"]), encoded["p"]  # (n, 2, output_dim)
        queue = w.buffers["queue"]
        values, similarities = [], []
        for view in (0, 1):
            nearest = losses.nearest_keys(z[:, view], queue)
            similarities.append(jnp.mean(jnp.sum(nearest * z[:, view], axis=-1)))
            values.append(
                losses.info_nce(nearest, p[:, 1 - view], temperature=self.hyper.temperature)
            )
        loss, metrics = jax.tree.map(lambda a, b: (a + b) / 2, *values)
        metrics["nearest_similarity"] = jax.lax.stop_gradient(sum(similarities) / 2)
        queue = losses.enqueue(queue, w.buffers["pointer"], z[:, 0])
        return loss, Aux({**w.buffers, **queue}, metrics, {"h": encoded["h"], "z": encoded["z"]})

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        length = self.hyper.queue_length
        return [
            (
                "neighbours",
                f"of a queue of {length:,} projections, the oldest {length // batch_size} steps "
                "old",
            )
        ]


def make(config: Any, spec: DataSpec, length: Length) -> NNCLR:
    """Builds the method from the config's sections method, model and views."""
    del length
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    check_batch_has_others(config)
    check_queue(hyper.queue_length, config.batch_size, "method.queue_length")
    return NNCLR(
        hyper=hyper,
        projector=mlp_head(
            3,
            hyper.hidden_dim,
            hyper.output_dim,
            hidden_bias=True,
            output_bias=True,
            output_norm="affine",
            dtype=config.dtype,
        ),
        predictor=mlp_head(
            2,
            hyper.predictor_dim,
            hyper.output_dim,
            hidden_bias=True,
            output_bias=True,
            dtype=config.dtype,
        ),
        **nets_and_views(config, spec),
    )
