"""Linear classifiers of the positions of images, one for each learning rate, trained together."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from ssl_jax.core.arrays import Array

_PRECISION = jax.lax.Precision.HIGHEST


class Heads(NamedTuple):
    """g classifiers of standardised features.

    Attributes:
      weight: float32 [g d c].
      bias: float32 [g c].
    """

    weight: Array
    bias: Array


class Fitted(NamedTuple):
    """Classifiers, with the mean and standard deviation [d] that features are standardised by."""

    heads: Heads
    mean: np.ndarray
    std: np.ndarray

    def scores(self, x: Float[np.ndarray, "n p d"]) -> Float[np.ndarray, "g n p c"]:
        """Log probabilities of the classes by each classifier."""
        return np.asarray(_scores(self.heads, (x - self.mean) / self.std))


def fit(
    x: Float[np.ndarray, "n p d"],
    counts: Int[np.ndarray, "n p c"],
    *,
    rates: tuple[float, ...],
    decay: float,
    steps: int,
    batch_size: int,
    seed: int,
) -> Fitted:
    """Trains the classifiers with AdamW on the mean cross-entropy of the pixels.

    Every pixel has the prediction of its cell. So the loss of a cell is the cross-entropy with the
    counts of the classes of its pixels. The rates fall to 0 along half a cosine. Weights start at
    0; all rates see the same batches.

    Args:
      x: features of the cells of n images.
      counts: `pixels.cell_counts`.
      rates: learning rates, one classifier each.
      decay: weight decay.
      steps: number of steps.
      batch_size: images of a step; at most n.
      seed: of the order of the images.
    """
    flat = x.reshape(-1, x.shape[-1])
    mean, std = flat.mean(axis=0), flat.std(axis=0)
    std = np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-12), std, np.inf).astype(np.float32)
    g, d, c = len(rates), x.shape[-1], counts.shape[-1]
    heads = Heads(jnp.zeros((g, d, c)), jnp.zeros((g, c)))
    optimizer = optax.adamw(1.0, weight_decay=decay, mask=Heads(True, False))
    state = optimizer.init(heads)
    size = min(batch_size, len(x))
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(x)) for _ in range(-(-steps * size // len(x)))])
    grid = jnp.asarray(rates, jnp.float32)
    for step in range(steps):
        rows = order[step * size : (step + 1) * size]
        factor = np.float32(0.5 * (1 + np.cos(np.pi * step / steps)))
        batch = (x[rows] - mean) / std
        heads, state = _step(heads, state, batch, counts[rows], grid * factor, optimizer=optimizer)
    return Fitted(heads, mean, std)


@jax.jit
def _scores(heads: Heads, x: Array) -> Array:
    logits = jnp.einsum("npd,gdc->gnpc", x, heads.weight, precision=_PRECISION)
    return jax.nn.log_softmax(logits + heads.bias[:, None, None], axis=-1)


@functools.partial(jax.jit, static_argnames="optimizer", donate_argnums=(0, 1))
def _step(
    heads: Heads,
    state: optax.OptState,
    x: Array,
    counts: Array,
    rates: Array,
    *,
    optimizer: optax.GradientTransformation,
) -> tuple[Heads, optax.OptState]:
    counts = counts.astype(jnp.float32)

    def loss(heads: Heads) -> Array:
        scores = _scores(heads, x)
        # The sum over classifiers, so that each has its own gradient.
        return -jnp.sum(scores * counts) / jnp.maximum(jnp.sum(counts), 1.0)

    update, state = optimizer.update(jax.grad(loss)(heads), state, heads)
    weight, bias = heads
    return Heads(
        weight + rates[:, None, None] * update.weight, bias + rates[:, None] * update.bias
    ), state
