"""Adam (Kingma & Ba 2015), and without its bias correction as in BERT's released code.

    m <- b1 m + (1 - b1) g,    v <- b2 v + (1 - b2) g^2,    u = m / (sqrt(v) + eps)

Adam divides m by 1 - b1^t and v by 1 - b2^t at update t. Without this correction the first step is
longer by a factor of (1 - b1) / sqrt(1 - b2), which is 3.2 for 0.9 and 0.999. About a thousand
steps after it are longer too; BERT's learning rate is still warming up during these steps.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any


def scale_by_adam(
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    nesterov: bool = False,
    bias_correction: bool = True,
) -> optax.GradientTransformation:
    """`optax.scale_by_adam` with optional bias correction.

    Args:
      b1, b2: decay of the averages of the gradient and of its square.
      eps: added to the square root.
      nesterov: use b1 m + (1 - b1) g, the look-ahead of Nesterov's momentum, instead of m.
      bias_correction: apply the bias correction.
    """
    if bias_correction:
        return optax.scale_by_adam(b1, b2, eps, nesterov=nesterov)

    def init(params: PyTree) -> optax.ScaleByAdamState:
        zeros = [jax.tree.map(jnp.zeros_like, params) for _ in range(2)]
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), *zeros)

    def update(grads: PyTree, state: optax.ScaleByAdamState, params: PyTree | None = None):
        del params
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * jnp.square(g), state.nu, grads)
        look_ahead = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, mu, grads) if nesterov else mu
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), look_ahead, nu)
        count = optax.safe_increment(state.count)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)
