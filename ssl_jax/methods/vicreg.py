"""VICReg: variance-invariance-covariance regularisation (Bardes et al. 2022).

    z = g(f(view))
    loss  l mean (z1 - z2)^2  +  m variance term  +  k covariance term

The first term makes the views agree. The variance term keeps the standard deviation of each
dimension over the batch above 1. The covariance term reduces the covariances between dimensions.
Both are computed for each view separately, so the two branches may be different. z, the output of
the "expander" g, is neither normalised nor standardised. See `losses.vicreg` for the sums.

The terms have a scale, so that of the first z matters. As in the released code the kernels of g are
PyTorch's, 1/sqrt(3) as wide as LeCun's: a dimension then begins at a standard deviation of about a
third, well below the 1 that the variance term asks for.

As in the released code each view has its own forward pass, with BatchNorm statistics of n images
over all devices; variances and covariances are those of the global batch.
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

    invariance: Annotated[float, not_negative, "Weight l of the invariance term."] = 25.0
    variance: Annotated[float, not_negative, "Weight m of the variance term."] = 25.0
    covariance: Annotated[float, not_negative, "Weight k of the covariance term."] = 1.0
    projector_layers: Annotated[LayerCount, "Dense layers of g."] = 3
    hidden_dim: Annotated[int, positive, "Width of its hidden layers."] = 8192
    output_dim: Annotated[int, positive, "Width of z."] = 8192


@dataclasses.dataclass(frozen=True)
class VICReg(TwoViews):
    title: ClassVar[str] = "VICReg"

    hyper: HyperParameters

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        z = encoded["z"]  # (n, 2, output_dim)
        loss, metrics = losses.vicreg(
            z[:, 0],
            z[:, 1],
            invariance=self.hyper.invariance,
            variance=self.hyper.variance,
            covariance=self.hyper.covariance,
        )
        return loss, Aux(w.buffers, metrics, encoded)

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        d = self.hyper.output_dim
        return [
            (
                "loss",
                f"covariances of {d:,} dimensions over {batch_size:,} images, of each view "
                f"{d * d * 4 / 2**20:,.0f} MiB on every device",
            )
        ]


def make(config: Any, spec: DataSpec, length: Length) -> VICReg:
    """Builds the method from the config's sections method, model and views."""
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    check_batch_has_others(config)
    return VICReg(
        hyper=hyper,
        projector=mlp_head(
            hyper.projector_layers,
            hyper.hidden_dim,
            hyper.output_dim,
            hidden_bias=True,
            kernel_init="pytorch",
            dtype=config.dtype,
        ),
        **nets_and_views(config, spec),
    )
