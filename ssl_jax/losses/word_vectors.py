"""Losses of word vectors: skip-gram and CBOW with negative sampling or the full softmax.

v are input vectors, which are the word vectors in the end, u output vectors. A context c predicts
the centre word w (Mikolov et al. 2013a, Sec. 3; 2013b, Eq. 2 and 4):

    softmax             log sum_x exp(u_x.h) - u_w.h
    negative sampling   softplus(-u_w.h) + sum over k negatives x of softplus(u_x.h)

In the skip-gram model h = v_c for each word c of the window. In CBOW h is the mean of the v_c of a
window. Gradients are those of word2vec.c: in CBOW each v_c gets the whole gradient of h, not the
share of the mean. A negative that is the centre word itself is left out.

`sampled` takes k negatives for each pair and gathers k + 2 rows or more for it. In
`shared_negatives` the words of a block have the same K negatives, each with weight k / K, which is
k negatives in expectation. A block gathers s + t + K rows, and its products are matrix products.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from ssl_jax.core.arrays import Array
from ssl_jax.core.batch_axes import ROWS, WHOLE, on_each_device

CHUNK = 2048  # output vectors that a device gathers at a time: 0.8 MB of 100 numbers, in a cache


def negative_sampling(
    contexts: Float[Array, "*p s d"],
    context_valid: Bool[Array, "*p s"],
    outputs: Float[Array, "*p o d"],
    valid: Bool[Array, "*p o"],
) -> Float[Array, "*p"]:
    """The loss of each pair, nats.

    Args:
      contexts: v of the context words; h is the mean of the valid ones.
      context_valid: which context words there are.
      outputs: u of the centre word, then of the negatives.
      valid: which outputs count.
    """
    h, _ = _mean(contexts, context_valid)
    logits = jnp.einsum("...d,...od->...o", h, outputs)
    return jnp.sum(jax.nn.softplus(_signs(outputs.shape[-2]) * logits), axis=-1, where=valid)


def _mean(contexts: Array, valid: Array) -> tuple[Array, Array]:
    """h [p d] and the weights of the mean [p s], without the division for the gradient."""
    weights = valid.astype(contexts.dtype)
    count = jnp.maximum(weights.sum(axis=-1, keepdims=True), 1)
    total = jnp.einsum("...s,...sd->...d", weights, contexts)
    return total + jax.lax.stop_gradient(total / count - total), weights


def _signs(count: int) -> np.ndarray:
    """-1 for the centre word, 1 for negatives."""
    return np.where(np.arange(count) == 0, -1.0, 1.0).astype(np.float32)


def sampled(
    input_table: Float[Array, "v d"],
    output_table: Float[Array, "v d"],
    contexts: Int[Array, "n p s"],
    context_valid: Bool[Array, "n p s"],
    outputs: Int[Array, "n p o"],
    valid: Bool[Array, "n p o"],
    *,
    chunk_size: int = CHUNK,
) -> Float[Array, ""]:
    """The sum of `negative_sampling` over all pairs of n rows, nats.

    Pairs are computed in chunks, together with their gradients, which are added to the rows of one
    table in place. So neither vectors of all pairs nor a table for each chunk are in memory. Each
    device processes its own rows.

    Args:
      input_table, output_table: v and u.
      contexts, context_valid, outputs, valid: see `negative_sampling`; ids of words.
      chunk_size: approximate number of output vectors that a device gathers at a time.
    """
    local = functools.partial(_sampled_local, chunk_size=chunk_size)
    kinds = (WHOLE, WHOLE, ROWS, ROWS, ROWS, ROWS)
    return on_each_device(local, kinds, ROWS)(
        input_table, output_table, contexts, context_valid, outputs, valid
    ).sum()


def _sampled_local(
    input_table: Array, output_table: Array, *lists: Array, chunk_size: int
) -> Array:
    """`sampled` of the rows on one device, [1]."""
    rows, pairs, num_outputs = lists[2].shape
    size = min(pairs * rows, max(1, chunk_size // num_outputs))
    count = -(-pairs * rows // size)

    def chunked(x: Array) -> Array:
        x = x.reshape(rows * pairs, x.shape[-1])
        return jnp.pad(x, ((0, count * size - len(x)), (0, 0))).reshape(count, size, -1)

    return _sampled(input_table, output_table, tuple(map(chunked, lists)))


@jax.custom_vjp
def _sampled(input_table: Array, output_table: Array, chunks: tuple[Array, ...]) -> Array:
    def step(total: Array, chunk: tuple[Array, ...]) -> tuple[Array, None]:
        contexts, context_valid, outputs, valid = chunk
        losses = negative_sampling(
            input_table[contexts], context_valid, output_table[outputs], valid
        )
        return total + losses.sum(), None

    return jax.lax.scan(step, jnp.zeros((), input_table.dtype), chunks)[0][None]


def _sampled_forward(input_table: Array, output_table: Array, chunks: tuple[Array, ...]):
    signs = _signs(chunks[2].shape[-1])

    def step(sums: tuple[Array, ...], chunk: tuple[Array, ...]):
        total, d_input, d_output = sums
        contexts, context_valid, outputs, valid = chunk
        h, weights = _mean(input_table[contexts], context_valid)
        u = output_table[outputs]  # (p, o, d)
        signed = signs * jnp.einsum("pd,pod->po", h, u)
        total += jnp.sum(jax.nn.softplus(signed), where=valid)
        slope = jnp.where(valid, signs * jax.nn.sigmoid(signed), 0)
        d_h = jnp.einsum("po,pod->pd", slope, u)
        d_output = d_output.at[outputs].add(slope[..., None] * h[:, None])
        d_input = d_input.at[contexts].add(weights[..., None] * d_h[:, None])
        return (total, d_input, d_output), None

    zeros = jnp.zeros((), input_table.dtype)
    start = zeros, jnp.zeros_like(input_table), jnp.zeros_like(output_table)
    (total, d_input, d_output), _ = jax.lax.scan(step, start, chunks)
    return total[None], (d_input, d_output)


def _sampled_backward(gradients: tuple[Array, Array], g: Array):
    return g[0] * gradients[0], g[0] * gradients[1], None


_sampled.defvjp(_sampled_forward, _sampled_backward)


def shared_negatives(
    inputs: Float[Array, "*b s d"],
    outputs: Float[Array, "*b o d"],
    pairs: Bool[Array, "*b s t"],
    equal: Bool[Array, "*b t k"],
    *,
    weight: float,
    cbow: bool,
) -> Float[Array, "*b"]:
    """The sum over the pairs of each block, with negatives that the block shares, nats.

    The gradient is computed together with the value, which shares the exponentials.

    Args:
      inputs: v of the words of a block and of the words around it.
      outputs: u of the t words of the block, then of its k shared negatives; o = t + k.
      pairs: whether an input is in the window of a target.
      equal: whether a negative is the target itself, for which it does not count.
      weight: k' / k of each negative, for k' negatives of a pair in expectation.
      cbow: whether the inputs of a window predict its target together.
    """
    pairs, counted = pairs.astype(inputs.dtype), weight * (1.0 - equal)
    return (_shared_cbow if cbow else _shared_skip_gram)(inputs, outputs, pairs, counted)


def _block_gradients(value_and_gradients: Callable[..., tuple[Array, Array, Array]]) -> Callable:
    """Turns a function of a block's arrays into its value with these gradients."""

    @jax.custom_vjp
    def value(inputs: Array, outputs: Array, pairs: Array, counted: Array) -> Array:
        return value_and_gradients(inputs, outputs, pairs, counted)[0]

    def forward(*arrays: Array):
        losses, *gradients = value_and_gradients(*arrays)
        return losses, gradients

    def backward(gradients: list[Array], g: Array):
        return *(g[..., None, None] * x for x in gradients), None, None

    value.defvjp(forward, backward)
    return value


@_block_gradients
def _shared_skip_gram(
    inputs: Array, outputs: Array, pairs: Array, counted: Array
) -> tuple[Array, Array, Array]:
    """The loss [b] and its gradients by inputs [b s d] and outputs [b o d]."""
    # In how many pairs of an input a negative counts: in those with another centre.
    negatives = jnp.einsum("...st,...tk->...sk", pairs, counted)
    weights = jnp.concatenate([pairs, negatives], axis=-1)  # (b, s, o)
    signs = np.where(np.arange(outputs.shape[-2]) < pairs.shape[-1], -1.0, 1.0).astype(np.float32)
    signed = signs * jnp.einsum("...sd,...od->...so", inputs, outputs)
    slope = weights * signs * jax.nn.sigmoid(signed)
    return (
        jnp.sum(weights * jax.nn.softplus(signed), axis=(-2, -1)),
        jnp.einsum("...so,...od->...sd", slope, outputs),
        jnp.einsum("...so,...sd->...od", slope, inputs),
    )


@_block_gradients
def _shared_cbow(
    inputs: Array, outputs: Array, pairs: Array, counted: Array
) -> tuple[Array, Array, Array]:
    """As `_shared_skip_gram`; each input gets the whole gradient of h."""
    count = pairs.sum(axis=-2)[..., None]  # (b, t, 1)
    some = (count > 0).astype(inputs.dtype)
    h = jnp.einsum("...st,...sd->...td", pairs / jnp.maximum(count, 1).swapaxes(-1, -2), inputs)
    targets, negatives = jnp.split(outputs, [pairs.shape[-1]], axis=-2)
    near = -jnp.sum(h * targets, axis=-1, keepdims=True)  # (b, t, 1)
    far = jnp.einsum("...td,...kd->...tk", h, negatives)
    counted = some * counted
    near_slope, far_slope = -some * jax.nn.sigmoid(near), counted * jax.nn.sigmoid(far)
    d_h = near_slope * targets + jnp.einsum("...tk,...kd->...td", far_slope, negatives)
    d_negatives = jnp.einsum("...tk,...td->...kd", far_slope, h)
    losses = some[..., 0] * jax.nn.softplus(near[..., 0])
    return (
        losses.sum(axis=-1) + jnp.sum(counted * jax.nn.softplus(far), axis=(-2, -1)),
        jnp.einsum("...st,...td->...sd", pairs, d_h),
        jnp.concatenate([near_slope * h, d_negatives], axis=-2),
    )


def word_softmax(
    inputs: Float[Array, "*b s d"],
    target_ids: Int[Array, "*b t"],
    output_table: Float[Array, "v d"],
    pairs: Bool[Array, "*b s t"],
    *,
    cbow: bool,
) -> Float[Array, "*b"]:
    """The sum over the pairs of each block with the full softmax, nats.

    Stores the logits of all words for every input: it is meant for small vocabularies.

    Args:
      inputs, pairs, cbow: see `shared_negatives`.
      target_ids: the words of the block.
      output_table: u of all words.
    """
    targets = output_table[target_ids]
    if cbow:
        h, has_context = _window_means(inputs, pairs)
        normalizer = jax.nn.logsumexp(jnp.einsum("...td,vd->...tv", h, output_table), axis=-1)
        losses = normalizer - jnp.einsum("...td,...td->...t", h, targets)
        return jnp.sum(losses, axis=-1, where=has_context)
    normalizer = jax.nn.logsumexp(jnp.einsum("...sd,vd->...sv", inputs, output_table), axis=-1)
    losses = normalizer[..., None] - jnp.einsum("...sd,...td->...st", inputs, targets)
    return jnp.sum(losses, axis=(-2, -1), where=pairs)


def _window_means(inputs: Array, pairs: Array) -> tuple[Array, Array]:
    """h of each target [b t d], and whether it has a context [b t]."""
    weights = pairs.astype(inputs.dtype)
    count = weights.sum(axis=-2)[..., None]  # (b, t, 1)
    total = jnp.einsum("...st,...sd->...td", weights, inputs)
    h = total + jax.lax.stop_gradient(total / jnp.maximum(count, 1) - total)
    return h, count[..., 0] > 0


@jax.custom_vjp
def scale_row_gradients(table: Array, factor: Array) -> Array:
    """The table [v d] itself; the gradient of each row is multiplied by `factor` [v]."""
    del factor
    return table


def _scale_forward(table: Array, factor: Array):
    return table, factor


def _scale_backward(factor: Array, g: Array):
    return g * factor[:, None], None


scale_row_gradients.defvjp(_scale_forward, _scale_backward)
