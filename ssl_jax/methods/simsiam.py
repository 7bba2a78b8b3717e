"""SimSiam: simple siamese representation learning (Chen & He 2021).

    z = g(f(view)), p = q(z);    loss  -cos(p1, sg(z2)) / 2 - cos(p2, sg(z1)) / 2

Neither negatives nor a moving average: a predictor q, and a stop-gradient sg on what it predicts.
Without the stop-gradient the loss falls to -1 and all images end up with one embedding. The
predictor's learning rate stays constant while the others' decays: it is the parameter group
"predictor".

As in the released code each view has a forward pass of its own, with BatchNorm statistics of n
images over all devices.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from ssl_jax import losses
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Aux, DataSpec, PyTree, Weights, hyper_parameters
from ssl_jax.methods.base.two_views import TwoViews, nets_and_views
from ssl_jax.models.heads import mlp_head

OUTPUT_NORMS = ("no_affine", "none")


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`.

    stop_gradient: False lets the gradient through to both sides, which collapses (Sec. 4.1).
    projector_layers: dense layers of g: 3, on CIFAR 2.
    projector_norm: of its last layer, "no_affine" BatchNorm or "none" (Table 3).
    hidden_dim: width of its hidden layers.
    output_dim: width of z and p.
    predictor_dim: width of the predictor's hidden layer, a bottleneck.
    """

    stop_gradient: bool = True
    projector_layers: int = 3
    projector_norm: str = "no_affine"
    hidden_dim: int = 2048
    output_dim: int = 2048
    predictor_dim: int = 512


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
    if hyper.projector_norm not in OUTPUT_NORMS:
        raise UserError(
            f"method.projector_norm is {hyper.projector_norm!r}; use one of "
            f"{', '.join(OUTPUT_NORMS)}.{nearest(hyper.projector_norm, OUTPUT_NORMS)}"
        )
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
