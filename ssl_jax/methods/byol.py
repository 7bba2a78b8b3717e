"""BYOL: bootstrap your own latent (Grill et al. 2020).

    online   z = g(f(view)), p = q(z)        target   t = g'(f'(other view))
    loss     |p/|p| - t/|t||^2, for both orders of the views, summed

The target's parameters are the moving average of the online encoder and projector, with a decay
that rises from tau to 1 over the run. The predictor q has no target. The target has no gradient.
There are no negatives: without the predictor all images get the same embedding.

As in the released code every view has its own forward pass, in the online network and in the
target, and all of them run BatchNorm in training mode: four sets of statistics a step, each of n
images over all devices. Deviations:
- The target starts as a copy of the online network. The released code initialises it independently;
  its authors saw no difference.
- The released code keeps running statistics of the target, which it does not use; here there are
  none.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.config.fields import fraction, positive
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Aux, DataSpec, PyTree, Schedule, Weights, hyper_parameters
from ssl_jax.methods.base.two_views import TwoViews, nets_and_views
from ssl_jax.models.heads import mlp_head
from ssl_jax.optim import cosine_ema


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    target_decay: Annotated[
        float, fraction, "tau, decay of the target's moving average at the first step."
    ] = 0.996
    target_schedule: Annotated[
        Literal["cosine", "constant"], "From tau to 1 over the run, or constant (Table 5a)."
    ] = "cosine"
    predictor: Annotated[bool, "False: compare the projections, which collapses (Table 5b)."] = True
    hidden_dim: Annotated[
        int, positive, "Width of the hidden layer of projector and predictor."
    ] = 4096
    output_dim: Annotated[int, positive, "Width of z, p and t."] = 256


@dataclasses.dataclass(frozen=True)
class BYOL(TwoViews):
    title: ClassVar[str] = "BYOL"

    hyper: HyperParameters
    total_steps: int

    @property
    def ema_decay(self) -> float | Schedule:
        hyper = self.hyper
        if hyper.target_schedule == "constant":
            return hyper.target_decay
        return cosine_ema(hyper.target_decay, self.total_steps)

    def ema_filter(self, path: str) -> bool:
        return not path.startswith("predictor/")

    def encode(self, w: Weights, views: Array, *, key: Array, step: Array) -> tuple[PyTree, PyTree]:
        online_key, *target_keys = jax.random.split(key, 3)
        encoded, updates = super().encode(w, views, key=online_key, step=step)
        targets = []
        for view, target_key in enumerate(target_keys):
            _, t, _ = self.embed(w.ema, w.buffers, views[:, view], key=target_key)
            targets.append(t)
        return {**encoded, "t": jnp.stack(targets, axis=1)}, updates  # t: (n, 2, output_dim)

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        z = encoded["z"]
        loss = losses.byol(encoded.get("p", z), encoded["t"])
        decay = self.ema_decay
        metrics = {"target_decay": jnp.float32(decay(step) if callable(decay) else decay)}
        return loss, Aux(w.buffers, metrics, {"h": encoded["h"], "z": z})

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        del batch_size
        decay = f"{self.hyper.target_decay:g}"
        if self.hyper.target_schedule == "cosine":
            decay += f" to 1 over {self.total_steps:,} steps"
        lines = [("target", f"moving average of encoder and projector, decay {decay}")]
        if not self.hyper.predictor:
            lines.append(("note", "without a predictor BYOL collapses"))
        return lines


def make(config: Any, spec: DataSpec, length: Length) -> BYOL:
    """Builds the method from the config's sections method, model and views."""
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    head = mlp_head(2, hyper.hidden_dim, hyper.output_dim, hidden_bias=True, dtype=config.dtype)
    return BYOL(
        hyper=hyper,
        total_steps=length.total_steps,
        projector=head,
        predictor=head if hyper.predictor else None,
        **nets_and_views(config, spec),
    )
