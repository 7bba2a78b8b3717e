"""Attentive probes that are trained together, on the same batches.

A probe is a classifier of attention-pooled tokens (`ssl_jax.models.attentive_head`). The probes
differ in learning rate and weight decay; their parameters have a leading dimension g.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int

from ssl_jax.core.arrays import Array
from ssl_jax.evals.scores import of_logits
from ssl_jax.models.attentive_head import Probe, logits

_HIGHEST = jax.lax.Precision.HIGHEST
_ADAM = optax.scale_by_adam(b1=0.9, b2=0.95)


class Scaling(NamedTuple):
    """Subtracted from the tokens, and divided by, before a probe takes them."""

    mean: Array  # [d]
    deviation: Array  # [d]; infinite for a constant feature


class Fit(NamedTuple):
    """Probes in training: parameters and the state of Adam."""

    probe: Probe
    adam: optax.OptState


class Scores(NamedTuple):
    """Sums over examples, weighted: float32 [g] each; `weight` float32 []."""

    top1: Array
    top5: Array
    cross_entropy: Array
    weight: Array


def start(probe: Probe, count: int) -> Fit:
    """`count` equal probes before their first update."""
    probes = jax.tree.map(lambda x: jnp.repeat(x[None], count, axis=0), probe)
    return Fit(probes, jax.vmap(_ADAM.init)(probes))


@functools.partial(jax.jit, donate_argnums=0)
def train_step(
    fit: Fit,
    x: Float[Array, "n p d"],
    label: Int[Array, " n"],
    weight: Float[Array, " n"],
    scaling: Scaling,
    learning_rate: Float[Array, " g"],
    weight_decay: Float[Array, " g"],
) -> Fit:
    """One step of AdamW (b1 .9, b2 .95) on the mean cross-entropy of a batch.

    The bias is not decayed.

    Args:
      fit: g probes.
      x, label: the examples.
      weight: 1, or 0 for examples that do not count.
      scaling: of the tokens.
      learning_rate, weight_decay: of each probe.
    """
    x = rescale(x, scaling)

    def loss(probe: Probe) -> Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits(probe, x), jnp.maximum(label, 0)
        )
        return jnp.sum(weight * losses) / jnp.maximum(jnp.sum(weight), 1.0)

    def update(fit: Fit, learning_rate: Array, weight_decay: Array) -> Fit:
        direction, adam = _ADAM.update(jax.grad(loss)(fit.probe), fit.adam)
        decayed = jax.tree.map(
            lambda step, value: step + weight_decay * value, direction, fit.probe
        )._replace(bias=direction.bias)
        probe = jax.tree.map(lambda p, step: p - learning_rate * step, fit.probe, decayed)
        return Fit(probe, adam)

    return jax.vmap(update)(fit, learning_rate, weight_decay)


@jax.jit
def score(
    probes: Probe,
    x: Float[Array, "n p d"],
    label: Int[Array, " n"],
    weight: Float[Array, " n"],
    scaling: Scaling,
) -> Scores:
    """Scores of g probes on a batch. If logits are equal, the lower class ranks first."""
    x = rescale(x, scaling)

    def of_probe(probe: Probe) -> tuple[Array, Array, Array]:
        return of_logits(logits(probe, x), label, weight)

    return Scores(*jax.vmap(of_probe)(probes), jnp.sum(weight))


def rescale(x: Array, scaling: Scaling) -> Array:
    """Standardised tokens, float32."""
    return (x.astype(jnp.float32) - scaling.mean) / scaling.deviation


@jax.jit
def sums(
    x: Float[Array, "n p d"], weight: Float[Array, " n"], shift: Float[Array, " d"]
) -> tuple[Array, Array, Array]:
    """Weighted sums over a batch, of an example's mean token m minus `shift`, and of its square.

    Returns:
      sum of m - shift [d], of its square [d], and of the weights [].
    """
    m = jnp.mean(x.astype(jnp.float32), axis=1) - shift
    total = functools.partial(jnp.einsum, "n,nd->d", weight, precision=_HIGHEST)
    return total(m), total(jnp.square(m)), jnp.sum(weight)
