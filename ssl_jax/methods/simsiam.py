"""SimSiam: simple siamese representation learning (Chen & He 2021).

    z = g(f(view)), p = q(z);    loss  -cos(p1, sg(z2)) / 2 - cos(p2, sg(z1)) / 2

There are no negatives and no moving average, only a predictor q and a stop-gradient sg on its
targets. Without the stop-gradient the loss falls to -1 and all images get the same embedding. The
learning rate of the predictor is constant, and that of the other parameters decays: the predictor
is the parameter group "predictor".

As in the released code each view has its own forward pass, with BatchNorm statistics of n images
over all devices.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

from ssl_jax import losses
from ssl_jax.config.fields import positive
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Aux, DataSpec, PyTree, Weights, hyper_parameters
from ssl_jax.methods.base.two_views import TwoViews, nets_and_views
from ssl_jax.models.heads import mlp_head
from ssl_jax.models.options import LayerCount


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    stop_gradient: Annotated[
        bool, "False: differentiate the targets too, which collapses (Sec. 4.1)."
    ] = True
    projector_layers: Annotated[LayerCount, "Dense layers of g: 3, or 2 on CIFAR."] = 3
    projector_norm: Annotated[
        Literal["no_affine", "none"], "BatchNorm of its last layer (Table 3)."
    ] = "no_affine"
    hidden_dim: Annotated[int, positive, "Width of its hidden layers."] = 2048
    output_dim: Annotated[int, positive, "Width of z and p."] = 2048
    predictor_dim: Annotated[
        int, positive, "Width of the predictor's hidden layer, a bottleneck."
    ] = 512


@dataclasses.dataclass(frozen=True)
class SimSiam(TwoViews):
    title: ClassVar[str] = "SimSiam"

    hyper: HyperParameters

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        p, z = encoded["p"], encoded["z"]  # (n, 2, output_dim)
        loss = losses.simsiam(p, z, stop_gradient=self.hyper.stop_gradient)
        return loss, Aux(w.buffers, {}, {"h": encoded["h"], "z": z})

    def param_group(self, path: str) -> str:
        return "predictor" if path.startswith("predictor/") else "default"

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        del batch_size
        if self.hyper.stop_gradient:
            return []
        return [("note", "without the stop-gradient SimSiam collapses")]


def make(config: Any, spec: DataSpec, length: Length) -> SimSiam:
    """Builds the method from the config's sections method, model and views."""
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    return SimSiam(
        hyper=hyper,
        projector=mlp_head(
            hyper.projector_layers,
            hyper.hidden_dim,
            hyper.output_dim,
            output_norm=hyper.projector_norm,
            dtype=config.dtype,
        ),
        predictor=mlp_head(
            2, hyper.predictor_dim, hyper.output_dim, output_bias=True, dtype=config.dtype
        ),
        **nets_and_views(config, spec),
    )
