"""iBOT: DINO, and self-distillation of masked patches (Zhou et al. 2022).

    views    DINO's loss of class tokens, L_cls                               (Eq. 1)
    patches  student  p_i = softmax(W g(f(masked view))_i / t)
             teacher  q_i = softmax((W' g'(f'(view))_i - c_patch) / t')
             L_patch = mean over large views of the mean over masked patches i of H(q_i, p_i)
    loss     L_cls + patch_weight L_patch                                     (Eq. 2)

f is a ViT, g the head and W the prototypes of both class tokens and patches. The student's large
views are masked: with a probability of `mask_probability`, blocks of `mask_ratio` of their patches
are replaced by a mask token. The teacher, the moving average, sees the whole view. Small views have
no masks. A view without a mask counts as 0 in L_patch, as in the released code.

The teacher of patches is the online tokenizer of the paper. Its outputs are centred like those of
class tokens, with a centre of their own. With `patch_weight=0` there are no masks and the loss is
that of DINO, see `ssl_jax.methods.dino`.

As in the released code:
- Masks are unions of random blocks, see `ssl_jax.views.blocks.mask_of_blocks`. The released code
  chooses the ratio 0 for half of the views (`pred_ratio 0 0.3`).
- A masked patch keeps its position; the mask token starts at 0.

Deviations, besides those of DINO:
- The centre of patches is the mean of masked patches, as in DINOv2; in the released code it is that
  of all patches of the large views.
- Class tokens and patches have the same temperatures.
- The number of masked patches of a view is rounded down.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Aux, DataSpec, PyTree, Weights, hyper_parameters
from ssl_jax.methods.base.masked_distillation import (
    MaskedDistillation,
    MaskedParameters,
    masked_nets,
)


@dataclasses.dataclass(frozen=True)
class HyperParameters(MaskedParameters):
    """The keys of `config.method`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class IBOT(MaskedDistillation):
    title: ClassVar[str] = "iBOT"

    hyper: HyperParameters

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key
        loss, metrics, buffers = self.distill(w, encoded, step)
        u, large_views = encoded["u"], encoded["t"].shape[1]
        outputs = {"h": encoded["h"][:, 0], "z": u[:, :large_views]}
        return loss, Aux(buffers, metrics, outputs)


def make(config: Any, spec: DataSpec, length: Length) -> IBOT:
    """Builds the method from the config's sections method, model and views.

    Raises:
      UserError: see `ssl_jax.methods.base.masked_distillation.masked_nets`.
    """
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    return IBOT(hyper=hyper, length=length, **masked_nets(config, spec, hyper))
