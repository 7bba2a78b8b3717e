"""LARS: layer-wise adaptive rate scaling (You et al. 2017, arXiv:1708.03888).

For every weight tensor w with gradient g,

    g <- g + weight_decay * w
    g <- g * trust_coefficient * |w| / |g|          (factor 1 if either norm is 0)

followed by momentum. Two orders of momentum and learning rate are in use:

    "lr_inside"     v <- m v + lr g;    w <- w - v        SimCLR's released code
    "lr_outside"    v <- m v + g;       w <- w - lr v     BYOL, Barlow Twins, VICReg

They are equal while the learning rate is constant, and differ during warm-up and decay: with
"lr_inside", a step at a small learning rate stays small in the momentum buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import optax

from ssl_jax.optim.by_step import add_decayed_weights, scale_by_learning_rate
from ssl_jax.optim.masks import path_mask
from ssl_jax.optim.trust import scale_by_trust_ratio

PyTree = Any
MomentumOrder = Literal["lr_inside", "lr_outside"]


def lars(
    learning_rate: float | optax.Schedule,
    *,
    weight_decay: float | optax.Schedule = 0.0,
    momentum: float = 0.9,
    trust_coefficient: float = 1e-3,
    nesterov: bool = False,
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
    momentum_order: MomentumOrder = "lr_inside",
    eps: float = 0.0,
) -> optax.GradientTransformation:
    """LARS with a mask of excluded parameters, and with either order of momentum.

    Args:
      learning_rate: lr, or a schedule step of the run -> lr; `update` then needs `step`, see
        `count_steps`.
      weight_decay: factor of the weights, which are added to the gradient before the norms are
        computed; or a schedule step of the run -> factor.
      momentum: m.
      trust_coefficient: eta of the paper.
      nesterov: use m v + g', the look-ahead of Nesterov's momentum, instead of v.
      mask: tree of bools, or a function from the parameters to such a tree: True for tensors with
        weight decay and adaptation; the other tensors use plain SGD with momentum. Default: all but
        biases, norm scales and norm offsets (`path_mask()`).
      momentum_order: order of momentum and learning rate, see above.
      eps: added to |g|.
    """
    mask = path_mask() if mask is None else mask
    trace = optax.trace(decay=momentum, nesterov=nesterov)
    lr = scale_by_learning_rate(learning_rate)
    order = {"lr_inside": (lr, trace), "lr_outside": (trace, lr)}[momentum_order]
    return optax.chain(
        add_decayed_weights(weight_decay, mask),
        optax.masked(scale_by_trust_ratio(trust_coefficient, eps), mask),
        *order,
    )
