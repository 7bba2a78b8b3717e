"""A probe that pools the tokens of an example by attention with one learned query.

Each head e has a query q, keys K x and values V x of the tokens x_1 ... x_p:

    a_i = softmax over i of q . K x_i / sqrt(k),    y_e = sum_i a_i V x_i
    logits = W [y_1; ...; y_E] + b

Keys and values have no biases: the first would cancel in the softmax, and the second would add a
constant, as b does. The query multiplies K once, and V the weighted sum of the tokens, so that the
keys and values of single tokens are never computed.

Several probes, which differ in learning rate and weight decay, are trained together on the same
batches. Their parameters have a leading dimension g.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int

from ssl_jax.core.arrays import Array
from ssl_jax.evals.scores import of_logits

_HIGHEST = jax.lax.Precision.HIGHEST
_ADAM = optax.scale_by_adam(b1=0.9, b2=0.95)


class Probe(NamedTuple):
    """The parameters, float32; d is the width of the tokens, E the number of heads, k = d / E."""

    query: Array  # [E k]
    key: Array  # [d E k]
    value: Array  # [d E k]
    kernel: Array  # [E k c]
    bias: Array  # [c]


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


def num_heads(dim: int, head_dim: int) -> int:
    """The largest number of heads that divides `dim` and leaves each at least `head_dim` wide."""
    return next(heads for heads in range(max(dim // head_dim, 1), 0, -1) if dim % heads == 0)


def init(key: Array, dim: int, num_classes: int, heads: int) -> Probe:
    """Random parameters of one probe. The logits are 0, and attention is nearly uniform."""
    shape = (dim, heads, dim // heads)
    query, keys, values = (jax.random.normal(part, shape) for part in jax.random.split(key, 3))
    return Probe(
        query=0.02 * query[0],
        key=keys / math.sqrt(dim),
        value=values / math.sqrt(dim),
        kernel=jnp.zeros((*shape[1:], num_classes)),
        bias=jnp.zeros(num_classes),
    )


def logits(probe: Probe, x: Float[Array, "n p d"]) -> Float[Array, "n c"]:
    """The logits of one probe."""
    einsum = functools.partial(jnp.einsum, precision=_HIGHEST)
    query = einsum("dek,ek->de", probe.key, probe.query) / math.sqrt(probe.query.shape[1])
    weights = jax.nn.softmax(einsum("npd,de->npe", x, query), axis=1)
    pooled = einsum("npe,npd->ned", weights, x)
    y = einsum("ned,dek->nek", pooled, probe.value)
    return einsum("nek,ekc->nc", y, probe.kernel) + probe.bias


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
