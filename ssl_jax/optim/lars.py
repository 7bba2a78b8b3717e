"""LARS: layer-wise adaptive rate scaling (You et al. 2017, arXiv:1708.03888).

For every weight tensor w with gradient g,

    g <- g + weight_decay * w
    g <- g * trust_coefficient * |w| / |g|          (factor 1 if either norm is 0)

followed by momentum. Two orders of momentum and learning rate are in use:

    "lr_inside"     v <- m v + lr g;    w <- w - v        SimCLR's released code
    "lr_outside"    v <- m v + g;       w <- w - lr v     BYOL, Barlow Twins, VICReg

They agree while the learning rate is constant and differ under warm-up and decay: inside, a step
taken at a small learning rate stays small in the momentum buffer.
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
    """LARS with exclusions and either order of momentum.

    Args:
      learning_rate: lr, or step of the run -> lr; `update` then needs `step`, see `count_steps`.
      weight_decay: times the weights added to the gradient before the norms are taken; or step of
        the run -> weight decay.
      momentum: m.
      trust_coefficient: eta of the paper.
      nesterov: use m v + g' (the next step's look-ahead) instead of v.
      mask: tree of bools, or a function from the parameters to one: True for tensors that are
        decayed and adapted; the others follow plain SGD with momentum. Default: all but biases,
        norm scales and norm offsets (`path_mask()`).
      momentum_order: of momentum and learning rate.
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
