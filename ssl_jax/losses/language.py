"""Cross-entropy of tokens over a large vocabulary.

    l_i = logsumexp_v(e_v.x_i + b_v) - (e_t.x_i + b_t),    t the token at i

The logits of all tokens are the largest array of a language model: 4 GB in float32 for 32,768
tokens and 30,522 words. Here a chunk of them is made, used and forgotten; the backward pass makes
it again. What is kept is one number a token. Losses and hits are a token's own: the mean over those
that count is left to the method, so that it is one over the global batch.
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
) -> tuple[Float[Array, "*rows"], Bool[Array, "*rows"]]:
    """The cross-entropy of every token, and whether it is the likeliest.

    Products are in the dtype of `vectors` and accumulate in float32; so does the gradient of the
    embedding, over the chunks and over the devices, each of which goes through its own rows.

    Args:
      vectors: x, [n ... d], float32 or bfloat16.
      embedding: e, [v d].
      bias: b, [v], or None for none.
      targets: t, int [n ...], 0 to v - 1.
      chunk_size: how many tokens' logits a device holds at a time, about.

    Returns:
      (losses, hits): float32 and bool, both [n ...]. A hit is a target with the largest logit; of
      equal ones the first in the vocabulary is.

    Raises:
      ValueError: the shapes do not fit, or a chunk has no token.
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
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    if bias is None:
        bias = jnp.zeros(embedding.shape[:1], jnp.float32)
    local = functools.partial(_local, chunk_size=chunk_size)
    return on_each_device(local, (ROWS, WHOLE, WHOLE, ROWS), (ROWS, ROWS))(
        vectors, embedding, bias, targets
    )


def _local(
    vectors: Array, embedding: Array, bias: Array, targets: Array, *, chunk_size: int
) -> tuple[Array, ...]:
    """The rows that one device holds."""
    count = targets.size
    if not count:
        return jnp.zeros(targets.shape, jnp.float32), jnp.zeros(targets.shape, bool)
    size = min(even_chunk(count, chunk_size), count)
    chunks = -(-count // size)
    rest = chunks * size - count
    x = pad_rows(vectors.reshape(count, -1), rest).reshape(chunks, size, -1)
    t = pad_rows(targets.reshape(count), rest).reshape(chunks, size)
    losses, hits = _chunked(x, embedding, bias, t)
    return tuple(y.reshape(-1)[:count].reshape(targets.shape) for y in (losses, hits))


@jax.custom_vjp
def _chunked(x: Array, embedding: Array, bias: Array, targets: Array) -> tuple[Array, Array]:
    """x [k c d], targets [k c] -> losses, hits [k c]."""
    return _forward(x, embedding, bias, targets)[0]


def _forward(x: Array, embedding: Array, bias: Array, targets: Array):
    e = embedding.astype(x.dtype)

    def step(_: None, chunk: tuple[Array, Array]):
        x, t = chunk
        logits = _logits(x, e, bias)  # (c, v)
        normalizer = jax.nn.logsumexp(logits, axis=1)
        at_target = jnp.take_along_axis(logits, t[:, None], axis=1)[:, 0]
        return None, (normalizer - at_target, jnp.argmax(logits, axis=1) == t, normalizer)

    _, (losses, hits, normalizer) = jax.lax.scan(step, None, (x, targets))
    return (losses, hits), (x, embedding, bias, targets, normalizer)


def _backward(kept: tuple[Array, ...], cotangents: tuple[Array, Array]):
    x, embedding, bias, targets, normalizer = kept
    e = embedding.astype(x.dtype)

    def step(sums: tuple[Array, Array], chunk: tuple[Array, ...]):
        x, t, normalizer, g = chunk
        p = jnp.exp(_logits(x, e, bias) - normalizer[:, None])
        is_target = jnp.arange(e.shape[0]) == t[:, None]
        d = g[:, None] * (p - is_target)  # (c, v), of the logits
        of_bias = d.sum(axis=0)
        d = d.astype(x.dtype)
        of_embedding = jnp.einsum("cv,cd->vd", d, x, preferred_element_type=p.dtype)
        of_x = jnp.einsum("cv,vd->cd", d, e, preferred_element_type=p.dtype)
        return (sums[0] + of_embedding, sums[1] + of_bias), of_x.astype(x.dtype)

    dtype = normalizer.dtype
    zeros = jnp.zeros(embedding.shape, dtype), jnp.zeros(bias.shape, dtype)
    (of_embedding, of_bias), of_x = jax.lax.scan(
        step, zeros, (x, targets, normalizer, cotangents[0])
    )
    return of_x, of_embedding.astype(embedding.dtype), of_bias.astype(bias.dtype), None


def _logits(x: Array, e: Array, bias: Array) -> Array:
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.einsum("cd,vd->cv", x, e, preferred_element_type=wide) + bias


_chunked.defvjp(_forward, _backward)
