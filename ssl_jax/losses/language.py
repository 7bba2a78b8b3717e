"""Cross-entropy of tokens over a large vocabulary.

    l_i = logsumexp_v(e_v.x_i + b_v) - (e_t.x_i + b_t),    t the token at i

The logits of all tokens are the largest array of a language model: 4 GB in float32 for 32,768
tokens and 30,522 words. Here logits are computed for one chunk of tokens at a time, and again in
the backward pass; only one number per token is stored between the passes. Where there is memory for
all logits, they can be stored instead, which saves computing them twice. Losses and hits are per
token. The method takes the mean, over the tokens of the global batch that have a target.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from ssl_jax.core.arrays import Array
from ssl_jax.core.batch_axes import ROWS, WHOLE, on_each_device
from ssl_jax.losses.tiles import chunk_size as even_chunk
from ssl_jax.losses.tiles import pad_rows

CHUNK = 2048  # tokens


def token_cross_entropy(
    vectors: Float[Array, "*rows d"],
    embedding: Float[Array, "v d"],
    bias: Float[Array, " v"] | None,
    targets: Int[Array, "*rows"],
    *,
    chunk_size: int = CHUNK,
    z_weight: float = 0.0,
) -> tuple[Float[Array, "*rows"], Bool[Array, "*rows"]]:
    """The cross-entropy of each token, and whether the target has the largest logit.

    Products are in the dtype of `vectors` and accumulate in float32. The gradient of the embedding
    accumulates in float32 too, over chunks and devices. Each device processes its own rows.

    Args:
      vectors: x, [n ... d], float32 or bfloat16.
      embedding: e, [v d].
      bias: b, [v]; None: no bias.
      targets: t, int [n ...], 0 to v - 1.
      chunk_size: approximate number of tokens whose logits a device stores at a time; 0: of all of
        them, until the backward pass.
      z_weight: weight of (logsumexp_v(e_v.x_i + b_v))^2, which is added to each loss and keeps
        logits from drifting (the z-loss of T5's released code: 1e-4).

    Returns:
      (losses, hits): float32, nats, and bool, both [n ...]. A hit is a target with the largest
      logit; if logits are equal, the first word of the vocabulary is the prediction.

    Raises:
      ValueError: the shapes do not fit, or `chunk_size` is negative.
    """
    if (
        vectors.shape[:-1] != targets.shape
        or not targets.shape
        or vectors.shape[-1:] != embedding.shape[1:]
        or (bias is not None and bias.shape != embedding.shape[:1])
    ):
        raise ValueError(
            "token_cross_entropy takes vectors [n ... d], embedding [v d], bias [v] and targets "
            f"[n ...], got {vectors.shape}, {embedding.shape}, "
            f"{None if bias is None else bias.shape} and {targets.shape}"
        )
    if chunk_size < 0:
        raise ValueError(f"chunk_size must be at least 0, got {chunk_size}")
    if bias is None:
        bias = jnp.zeros(embedding.shape[:1], jnp.float32)
    local = functools.partial(_local, chunk_size=chunk_size, z_weight=z_weight)
    return on_each_device(local, (ROWS, WHOLE, WHOLE, ROWS), (ROWS, ROWS))(
        vectors, embedding, bias, targets
    )


def _local(
    vectors: Array,
    embedding: Array,
    bias: Array,
    targets: Array,
    *,
    chunk_size: int,
    z_weight: float,
) -> tuple[Array, ...]:
    """`token_cross_entropy` of the rows on one device."""
    count = targets.size
    if not count:
        return jnp.zeros(targets.shape, jnp.float32), jnp.zeros(targets.shape, bool)
    if not chunk_size:
        x, e = vectors.reshape(count, -1), embedding.astype(vectors.dtype)
        losses, hits, _ = _scores(x, e, bias, targets.reshape(count), z_weight)
        return losses.reshape(targets.shape), hits.reshape(targets.shape)
    size = min(even_chunk(count, chunk_size), count)
    chunks = -(-count // size)
    padding = chunks * size - count
    x = pad_rows(vectors.reshape(count, -1), padding).reshape(chunks, size, -1)
    t = pad_rows(targets.reshape(count), padding).reshape(chunks, size)
    losses, hits = _chunked(x, embedding, bias, t, z_weight)
    return tuple(y.reshape(-1)[:count].reshape(targets.shape) for y in (losses, hits))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _chunked(
    x: Array, embedding: Array, bias: Array, targets: Array, z_weight: float
) -> tuple[Array, Array]:
    """x [k c d], targets [k c] -> losses, hits [k c]."""
    return _forward(x, embedding, bias, targets, z_weight)[0]


def _forward(x: Array, embedding: Array, bias: Array, targets: Array, z_weight: float):
    e = embedding.astype(x.dtype)

    def step(_: None, chunk: tuple[Array, Array]):
        x, t = chunk
        return None, _scores(x, e, bias, t, z_weight)

    _, (losses, hits, normalizer) = jax.lax.scan(step, None, (x, targets))
    return (losses, hits), (x, embedding, bias, targets, normalizer)


def _backward(z_weight: float, residuals: tuple[Array, ...], cotangents: tuple[Array, Array]):
    x, embedding, bias, targets, normalizer = residuals
    e = embedding.astype(x.dtype)

    def step(sums: tuple[Array, Array], chunk: tuple[Array, ...]):
        x, t, normalizer, g = chunk
        p = jnp.exp(_logits(x, e, bias) - normalizer[:, None])
        if z_weight:
            p = p * (1 + 2 * z_weight * normalizer[:, None])
        is_target = jnp.arange(e.shape[0]) == t[:, None]
        d_logits = g[:, None] * (p - is_target)  # (c, v)
        d_bias = d_logits.sum(axis=0)
        d_logits = d_logits.astype(x.dtype)
        d_embedding = jnp.einsum("cv,cd->vd", d_logits, x, preferred_element_type=p.dtype)
        d_x = jnp.einsum("cv,vd->cd", d_logits, e, preferred_element_type=p.dtype)
        return (sums[0] + d_embedding, sums[1] + d_bias), d_x.astype(x.dtype)

    dtype = normalizer.dtype
    zeros = jnp.zeros(embedding.shape, dtype), jnp.zeros(bias.shape, dtype)
    (d_embedding, d_bias), d_x = jax.lax.scan(step, zeros, (x, targets, normalizer, cotangents[0]))
    return d_x, d_embedding.astype(embedding.dtype), d_bias.astype(bias.dtype), None


def _scores(
    x: Array, e: Array, bias: Array, t: Array, z_weight: float
) -> tuple[Array, Array, Array]:
    """x [c d], e [v d], t [c] -> losses, hits and the logarithm of the softmax's sum, all [c]."""
    logits = _logits(x, e, bias)  # (c, v)
    normalizer = jax.nn.logsumexp(logits, axis=1)
    at_target = jnp.take_along_axis(logits, t[:, None], axis=1)[:, 0]
    losses = normalizer - at_target
    if z_weight:
        losses = losses + z_weight * normalizer**2
    return losses, jnp.argmax(logits, axis=1) == t, normalizer


def _logits(x: Array, e: Array, bias: Array) -> Array:
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.einsum("cd,vd->cv", x, e, preferred_element_type=wide) + bias


_chunked.defvjp(_forward, _backward)
