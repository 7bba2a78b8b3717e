"""Distillation of masked patches: the student predicts the teacher's prototypes (iBOT).

    q = softmax(W' t / t' + b)              of a masked patch, from the teacher, which sees it
    p = softmax(W u / t)                    from the student, which sees the mask token
    l = mean over images of the sum over patches of w H(q, p)     Zhou et al. 2022, Eq. 2

u and t are unit vectors. The offset b prevents collapse: -c / t' with a centre c, or the logarithms
of the column factors of Sinkhorn's algorithm (`sinkhorn_offset`).

There may be 100,000 masked patches and 131,072 prototypes, so neither outputs nor targets are
stored: they are computed for a chunk of patches at a time, and again in the backward pass.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from ssl_jax.core.arrays import Array, Scalar
from ssl_jax.core.batch_axes import ROWS, WHOLE, manual_axes, on_each_device
from ssl_jax.losses.self_distillation import prototype_logits
from ssl_jax.losses.tiles import MASKED, check_temperature, chunk_size, pad_rows

_OUTPUTS = 2**25  # outputs in a chunk: 128 MiB of float32


def masked_distillation(
    embeddings: Float[Array, "n m d"],
    prototypes: Float[Array, "d k"],
    teacher: Float[Array, "n m e"],
    teacher_prototypes: Float[Array, "e k"],
    weights: Float[Array, "n m"],
    offset: Float[Array, " k"],
    *,
    temperature: Scalar = 0.1,
    teacher_temperature: Scalar = 0.07,
    max_outputs: int = _OUTPUTS,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy of masked patches with the teacher's targets (iBOT, Eq. 2).

    Args:
      embeddings: the student's u of m places for masked patches, float32 or bfloat16.
      prototypes: W.
      teacher: the teacher's t of the same patches.
      teacher_prototypes: W'.
      weights: w of each patch: 1 / its image's number of masked patches, and 0 for places without
        a patch.
      offset: b, float32.
      temperature: t > 0, a divisor.
      teacher_temperature: t' > 0, a divisor.
      max_outputs: numbers in a chunk of outputs on a device.

    Returns:
      Both float32 []: the loss, whose gradient reaches only the student; and the entropy of the
      targets in nats, a mean weighted by w.

    Raises:
      ValueError: a temperature is not positive.
    """
    check_temperature(temperature)
    check_temperature(teacher_temperature)

    def local(u: Array, w: Array, t: Array, w_t: Array, b: Array, temperatures: Array):
        n, m = u.shape[:2]

        @jax.checkpoint
        def chunk(rows: tuple[Array, Array]) -> tuple[Array, Array]:
            logits = prototype_logits(rows[0], w) / temperatures[0]  # (rows, k)
            target = jax.nn.softmax(prototype_logits(rows[1], w_t) / temperatures[1] + b)
            loss = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(target * logits, axis=-1)
            return loss, jnp.sum(jax.scipy.special.entr(target), axis=-1)

        chunks = _chunks((u, t), w.shape[1], max_outputs)
        return jax.tree.map(
            lambda x: x.reshape(-1)[: n * m].reshape(n, m), jax.lax.map(chunk, chunks)
        )

    teacher, teacher_prototypes, weights, offset = jax.lax.stop_gradient(
        (teacher, teacher_prototypes, weights, offset)
    )
    inputs = (ROWS, WHOLE, ROWS, WHOLE, WHOLE, WHOLE)
    temperatures = jnp.stack(
        [jnp.asarray(x, jnp.float32) for x in (temperature, teacher_temperature)]
    )
    losses, entropies = on_each_device(local, inputs, (ROWS, ROWS))(
        embeddings, prototypes, teacher, teacher_prototypes, offset, temperatures
    )
    total = jnp.maximum(jnp.sum(weights), jnp.finfo(jnp.float32).tiny)
    loss = jnp.sum(weights * losses) / weights.shape[0]
    return loss, jax.lax.stop_gradient(jnp.sum(weights * entropies) / total)


def sinkhorn_offset(
    teacher: Float[Array, "n m e"],
    prototypes: Float[Array, "e k"],
    is_masked: Bool[Array, "n m"],
    *,
    epsilon: Scalar,
    iterations: int = 3,
    max_outputs: int = _OUTPUTS,
) -> Float[Array, " k"]:
    """The b of `masked_distillation` whose targets use all prototypes equally, without gradient.

    softmax(W' t / epsilon + b) are the codes of `ssl_jax.losses.sinkhorn` over all masked patches
    of the global batch.

    Args:
      teacher: the teacher's t.
      prototypes: W'.
      is_masked: False for places without a patch, which do not count.
      epsilon: > 0, the temperature t'.
      iterations: of the algorithm; 0 gives b = 0.
      max_outputs: as above.

    Raises:
      ValueError: epsilon is not positive.
    """
    check_temperature(epsilon)

    def local(t: Array, w: Array, counts: Array, epsilon: Array) -> Array:
        axes = manual_axes()
        k = w.shape[1]
        chunks = _chunks((t, counts), k, max_outputs)  # padding has counts of False

        def iteration(offset: Array, is_first: bool) -> Array:
            def add(total: Array, rows: tuple[Array, ...]) -> tuple[Array, None]:
                scores = prototype_logits(rows[0], w) / epsilon
                if not is_first:
                    scores = scores - jax.nn.logsumexp(scores + offset, axis=1, keepdims=True)
                scores = jnp.where(rows[1][:, None], scores, MASKED)
                return jnp.logaddexp(total, jax.nn.logsumexp(scores, axis=0)), None

            total, _ = jax.lax.scan(add, jnp.full(k, MASKED, jnp.float32), chunks)
            if axes:
                largest = jax.lax.pmax(total, axes)
                total = largest + jnp.log(jax.lax.psum(jnp.exp(total - largest), axes))
            return -total

        offset = jnp.zeros(k, jnp.float32)
        for i in range(iterations):
            offset = iteration(offset, i == 0)
        return offset

    arrays = jax.lax.stop_gradient((teacher, prototypes))
    over_devices = on_each_device(local, (ROWS, WHOLE, ROWS, WHOLE), WHOLE)
    return over_devices(*arrays, is_masked, jnp.asarray(epsilon, jnp.float32))


def _chunks(arrays: tuple[Array, ...], k: int, max_outputs: int) -> tuple[Array, ...]:
    """Each `[n m ...]` as `[chunks size ...]`, padded with zeros."""
    rows = arrays[0].shape[0] * arrays[0].shape[1]
    size = chunk_size(rows, max(8, max_outputs // k))

    def split(x: Array) -> Array:
        x = pad_rows(x.reshape(rows, *x.shape[2:]), -rows % size)
        return x.reshape(-1, size, *x.shape[1:])

    return tuple(map(split, arrays))
