"""Barlow Twins: self-supervised learning via redundancy reduction (Zbontar et al. 2021).

    z = g(f(view));    C = correlations, over the batch, of the dimensions of z1 with those of z2
    loss  sum_i (1 - C_ii)^2 + w sum_{i != j} C_ij^2

The diagonal terms make the views agree; the off-diagonal terms decorrelate the dimensions. There
are no negatives, no predictor, no moving average and no stop-gradient. z is wide; C is
[output_dim output_dim], over the global batch.

As in the released code each view has its own forward pass, with BatchNorm statistics of n images
over all devices. Biases and norms have their own learning rate: they are the parameter group
"one_dimensional". The released code does not differentiate its all-reduce of C, so its gradients
are those of this loss divided by the number of processes. This does not affect parameters that LARS
adapts, but it affects the others.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

from ssl_jax import losses
from ssl_jax.config.fields import not_negative, positive
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Aux, DataSpec, PyTree, Weights, hyper_parameters
from ssl_jax.methods.base.two_views import TwoViews, check_batch_has_others, nets_and_views
from ssl_jax.models.heads import mlp_head
from ssl_jax.models.options import LayerCount


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    off_diagonal_weight: Annotated[float, not_negative, "w, the paper's lambda."] = 0.0051
    projector_layers: Annotated[LayerCount, "Dense layers of g."] = 3
    hidden_dim: Annotated[int, positive, "Width of its hidden layers."] = 8192
    output_dim: Annotated[int, positive, "Width of z."] = 8192


@dataclasses.dataclass(frozen=True)
class BarlowTwins(TwoViews):
    title: ClassVar[str] = "Barlow Twins"

    hyper: HyperParameters

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        z = encoded["z"]  # (n, 2, output_dim)
        loss, metrics = losses.barlow_twins(
            z[:, 0], z[:, 1], off_diagonal_weight=self.hyper.off_diagonal_weight
        )
        return loss, Aux(w.buffers, metrics, encoded)

    def param_group(self, path: str) -> str:
        return "one_dimensional" if path.endswith(("/bias", "/scale")) else "default"

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        d = self.hyper.output_dim
        return [
            (
                "loss",
                f"correlations of {d:,} dimensions over {batch_size:,} images, "
                f"{d * d * 4 / 2**20:,.0f} MiB on every device",
            )
        ]


def make(config: Any, spec: DataSpec, length: Length) -> BarlowTwins:
    """Builds the method from the config's sections method, model and views."""
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    check_batch_has_others(config)
    return BarlowTwins(
        hyper=hyper,
        projector=mlp_head(
            hyper.projector_layers, hyper.hidden_dim, hyper.output_dim, dtype=config.dtype
        ),
        **nets_and_views(config, spec),
    )
