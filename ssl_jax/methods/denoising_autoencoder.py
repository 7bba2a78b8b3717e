"""Denoising autoencoder: reconstructs images from corrupted ones (Vincent et al. 2008, 2010).

    c ~ q(c|x) -> z = s(A f(c) + a) -> g(z) = x',    loss = reconstruction(x', x)

The rest is `ssl_jax.methods.autoencoder`. Each image is corrupted anew in each step, with its own
key. Evaluation encodes images as they are. With little Gaussian noise, x' - x is about the variance
of the noise times the gradient of log p(x) (Alain & Bengio 2014).

The paper's nets have one hidden layer of sigmoid units and tied weights. To stack such layers, see
`ssl_jax.methods.stacked_denoising_autoencoder`.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

from ssl_jax.config.fields import not_negative
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, DataSpec, hyper_parameters
from ssl_jax.methods import autoencoder
from ssl_jax.methods.autoencoder import Autoencoder
from ssl_jax.views import corruption
from ssl_jax.views.ops import fold_in

_CORRUPTION = 0x636F7272  # folded into an example's key


@dataclasses.dataclass(frozen=True, kw_only=True)
class HyperParameters(autoencoder.HyperParameters):
    """The keys of `config.method`."""

    corruption: Annotated[corruption.Corruption, "What is done to the images."] = "masking"
    amount: Annotated[
        float, not_negative, "Share of changed values, or standard deviation of Gaussian noise."
    ] = 0.25


@dataclasses.dataclass(frozen=True)
class DenoisingAutoencoder(Autoencoder):
    """An autoencoder of corrupted images."""

    title: ClassVar[str] = "Denoising autoencoder"

    hyper: HyperParameters

    def corrupted(self, keys: Array, x: Array) -> Array:
        kind, amount = self.hyper.corruption, self.hyper.amount
        return corruption.corrupt(fold_in(keys, _CORRUPTION), x, kind=kind, amount=amount)

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        how = f"{self.hyper.corruption}, {self.hyper.amount:g}"
        return [("corruption", how), *super().preflight(batch_size)]


def make(config: Any, spec: DataSpec, length: Length) -> DenoisingAutoencoder:
    """Builds the method from the config's sections method, model, nets and views.

    Raises:
      UserError: as `autoencoder.make`, or a share of changed values above 1.
    """
    del length
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    corruption.check_amount(hyper.corruption, hyper.amount)
    return autoencoder.build(DenoisingAutoencoder, hyper, config, spec)
