"""A classifier that pools the tokens of an example by attention with one learned query.

Each head e has a query q, keys K x and values V x of the tokens x_1 ... x_p:

    a_i = softmax over i of q . K x_i / sqrt(k),    y_e = sum_i a_i V x_i
    logits = W [y_1; ...; y_E] + b

Keys and values have no biases: the first would cancel in the softmax, and the second would add a
constant, as b does. The query multiplies K once, and V the weighted sum of the tokens, so that the
keys and values of single tokens are never computed.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.core.arrays import Array

_HIGHEST = jax.lax.Precision.HIGHEST


class Probe(NamedTuple):
    """The parameters, float32; d is the width of the tokens, E the number of heads, k = d / E."""

    query: Array  # [E k]
    key: Array  # [d E k]
    value: Array  # [d E k]
    kernel: Array  # [E k c]
    bias: Array  # [c]


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
