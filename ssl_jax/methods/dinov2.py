"""DINOv2: DINO, iBOT and a term that spreads features (Oquab et al. 2023).

    L_view   DINO's loss of class tokens, with the head g, W
    L_patch  iBOT's loss of masked patches, with the same head or one of its own
    L_koleo  - mean log |h_i - h_nn(i)| of the student's class tokens h before the head, scaled to
             norm 1, summed over the large views                              (Sec. 4, KoLeo)
    loss     L_view + patch_weight L_patch + koleo_weight L_koleo

`ssl_jax.methods.dino` and `ssl_jax.methods.ibot` have the equations of the first two. The teacher's
targets are centred, or Sinkhorn's algorithm assigns them so that all prototypes are used equally
over the global batch: one assignment of all large views, and one of all masked patches. The large
nets have separate heads (`separate_heads`), LayerScale and a SwiGLU. With `patch_weight` and
`koleo_weight` 0 and centring the loss is that of DINO.

As in the released code:
- The nearest neighbour of an image is searched among `koleo_chunk` images and in the same view. In
  the released code they are the images of a GPU; here the number is an option and the loss does not
  depend on the number of devices.
- The optimizer group "patch_embed" is the patch embedding, whose rate is 0.2 times that of the
  others: `optimizer.groups.patch_embed.lr_factor`. The layers have groups for layer-wise rates.
- All layers have the same probability of stochastic depth (`model.uniform_drop_path`).

Deviations, besides those of DINO and iBOT:
- The ratio of each mask is drawn independently; the released code spreads the ratios of a GPU's
  batch evenly over the interval and masks exactly half of its views.
- The released code drops branches for a fixed number of a batch's examples, this one for a random
  number.
- Gradients are clipped by the norm of all parameters; in the released code by that of the encoder
  and of each head.
- The phase at a higher resolution at the end (Sec. 4) is another run, with `init_from`.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

from ssl_jax import losses
from ssl_jax.config.fields import at_least, not_negative, positive
from ssl_jax.core.errors import UserError
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Aux, DataSpec, PyTree, Weights, hyper_parameters
from ssl_jax.methods.base.masked_distillation import (
    MaskedDistillation,
    MaskedParameters,
    Targets,
    masked_nets,
)
from ssl_jax.methods.base.multi_crop import check_prototypes
from ssl_jax.methods.base.self_distillation import make_head, make_prototypes


@dataclasses.dataclass(frozen=True)
class HyperParameters(MaskedParameters):
    """The keys of `config.method`."""

    targets: Annotated[
        Targets, "The teacher's targets: centred, or assigned by Sinkhorn's algorithm."
    ] = "centring"
    separate_heads: Annotated[bool, "Patches have a head of their own."] = False
    num_patch_prototypes: Annotated[int, at_least(2), "Prototypes of the head of patches."] = 65536
    patch_output_dim: Annotated[int, positive, "Bottleneck of the head of patches."] = 256
    koleo_weight: Annotated[float, not_negative, "Weight of L_koleo."] = 0.1
    koleo_chunk: Annotated[
        int, at_least(2), "Images among which nearest neighbours are searched; divides the batch."
    ] = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class DINOv2(MaskedDistillation):
    title: ClassVar[str] = "DINOv2"

    hyper: HyperParameters

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key
        hyper, h = self.hyper, encoded["h"]  # (n, g, d)
        loss, metrics, buffers = self.distill(w, encoded, step)
        if hyper.koleo_weight:
            koleo = sum(
                losses.koleo(h[:, view], chunk=hyper.koleo_chunk) for view in range(h.shape[1])
            )
            metrics["koleo"] = koleo
            loss = loss + hyper.koleo_weight * koleo
        outputs = {"h": h[:, 0], "z": encoded["u"][:, : h.shape[1]]}
        return loss, Aux(buffers, metrics, outputs)

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        hyper = self.hyper
        koleo = f"weight {hyper.koleo_weight:g}, neighbours among {hyper.koleo_chunk} images"
        return [
            *super().preflight(batch_size),
            ("targets", "equal use of prototypes" if self.targets == "sinkhorn" else "centred"),
            ("KoLeo", koleo if hyper.koleo_weight else "none"),
        ]


def make(config: Any, spec: DataSpec, length: Length) -> DINOv2:
    """Builds the method from the config's sections method, model and views.

    Raises:
      UserError: see `ssl_jax.methods.base.masked_distillation.masked_nets`; or `koleo_chunk` does
        not divide the batch.
    """
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    if hyper.koleo_weight and config.batch_size % hyper.koleo_chunk:
        raise UserError(
            f"method.koleo_chunk {hyper.koleo_chunk} does not divide batch_size "
            f"{config.batch_size}; use a divisor of it, at least 2, or method.koleo_weight=0"
        )
    nets = masked_nets(config, spec, hyper)
    if hyper.separate_heads and hyper.patch_weight:
        check_prototypes(hyper.num_patch_prototypes, spec, "method.num_patch_prototypes")
        nets["patch_projector"] = make_head(config, hyper, hyper.patch_output_dim)
        nets["patch_prototypes"] = make_prototypes(hyper, hyper.num_patch_prototypes)
    return DINOv2(hyper=hyper, length=length, targets=hyper.targets, **nets)
