"""Instance discrimination against a memory bank (InstDisc, Wu et al. 2018).

Each training image i is a class. The weight vector f_i of the class is an earlier embedding of the
image, stored as a row of the memory bank. An embedding v is classified without parameters:

    P(i | v) = exp(v.f_i / t) / Z,    Z = sum_j exp(v.f_j / t)                             (Eq. 2)

For a million images the sum is expensive. `nce` replaces it by noise-contrastive estimation with a
constant Z, `softmax_over_candidates` by a softmax over the positive (the image's own row) and
randomly drawn negatives. `softmax_over_bank` computes the whole sum. The bank has no gradient:
`update_bank` moves its rows towards the embeddings. A queue instead stores the latest embeddings of
any images (MoCo).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ssl_jax.core import batch_axes
from ssl_jax.core.arrays import Array, Scalar
from ssl_jax.losses import pair_plan, pairs
from ssl_jax.losses.contrastive import unit_length
from ssl_jax.losses.implementation import BLOCK_SIZE, choose_one_sided
from ssl_jax.losses.tiles import check_temperature, chunk_size, product, row_products

# Maximum size of the bank rows that a device gathers at a time.
GATHERED_BYTES = 64 * 2**20


def init_bank(key: Array, num_examples: int, dim: int) -> Float[Array, "num_examples dim"]:
    """A bank of uniform numbers in +-1/sqrt(dim/3), so that rows have a norm of about 1.

    This is the released code's initialisation. `update_bank` scales rows to norm 1.

    Returns:
      float32 [num_examples dim].
    """
    bound = 1 / math.sqrt(dim / 3)
    return jax.random.uniform(key, (num_examples, dim), minval=-bound, maxval=bound)


def update_bank(
    bank: Float[Array, "rows d"],
    index: Int[Array, " n"],
    embeddings: Float[Array, "n d"],
    *,
    momentum: Scalar,
) -> Float[Array, "rows d"]:
    """Updates rows of the bank: f_i <- m f_i + (1 - m) v_i, scaled to norm 1. No gradient.

    Args:
      bank: [N d].
      index: int [n], the images' rows of the bank, all different.
      embeddings: [n d], v, of norm 1.
      momentum: m; 0 stores the latest embedding.

    Returns:
      The new bank, in the dtype of `bank`.
    """
    bank, embeddings = jax.lax.stop_gradient((jnp.asarray(bank), embeddings))
    mixed = momentum * bank[index] + (1 - momentum) * embeddings
    return bank.at[index].set(unit_length(mixed).astype(bank.dtype))


def init_queue(key: Array, length: int, *shape: int) -> dict[str, Array]:
    """A queue of random unit vectors, as in MoCo's released code (He et al. 2020).

    Args:
      key: random key of the vectors.
      length: number of rows.
      *shape: shape of a row; its last dimension is d.

    Returns:
      `queue` [length ... d] float32, and `pointer` int32 [], the index of the oldest row.
    """
    queue = unit_length(jax.random.normal(key, (length, *shape)))
    return {"queue": queue, "pointer": jnp.zeros((), jnp.int32)}


def enqueue(
    queue: Float[Array, "length ..."], pointer: Int[Array, ""], keys: Float[Array, "n ..."]
) -> dict[str, Array]:
    """Replaces the oldest n rows of a queue by n keys.

    Args:
      queue, pointer: as returned by `init_queue`; the length is a multiple of n.
      keys: the new rows; without gradient.

    Returns:
      The new `queue` and `pointer`.
    """
    keys = jax.lax.stop_gradient(keys).astype(queue.dtype)
    queue = jax.lax.dynamic_update_slice_in_dim(queue, keys, pointer, axis=0)
    return {"queue": queue, "pointer": (pointer + len(keys)) % len(queue)}


def nearest_keys(
    embeddings: Float[Array, "n d"], queue: Float[Array, "length d"]
) -> Float[Array, "n d"]:
    """The row of the queue nearest to each embedding (NNCLR, Dwibedi et al. 2021, Eq. 1).

    To save memory, a device compares only some of its embeddings with the queue at a time.

    Args:
      embeddings: [n d], of norm 1; n is a multiple of the number of devices.
      queue: [length d], of norm 1, the same on every device.

    Returns:
      [n d], rows of the queue, without gradient.
    """

    def local(rows: Array, queue: Array) -> Array:
        def nearest(row: Array) -> Array:
            return jnp.argmax(product("kd,d->k", queue, row))

        batch_size = max(1, GATHERED_BYTES // (len(queue) * 4))
        return queue[jax.lax.map(nearest, rows, batch_size=min(batch_size, len(rows)))]

    over_devices = batch_axes.on_each_device(
        local, (batch_axes.ROWS, batch_axes.WHOLE), batch_axes.ROWS
    )
    return over_devices(*jax.lax.stop_gradient((jnp.asarray(embeddings), jnp.asarray(queue))))


def bank_logits(
    embeddings: Float[Array, "n d"],
    bank: Float[Array, "rows d"],
    candidates: Int[Array, "n m"],
    *,
    temperature: Scalar,
) -> Float[Array, "n m"]:
    """Computes v_i.f_j / t for the candidate rows j of each i, a chunk of candidates at a time.

    Args:
      embeddings: [n d], of norm 1.
      bank: [N d]; without gradient.
      candidates: int [n m], the rows j of the bank.
      temperature: t > 0.

    Returns:
      [n m] float32.

    Raises:
      ValueError: the temperature is not positive.
    """
    check_temperature(temperature)
    bank = jax.lax.stop_gradient(jnp.asarray(bank))
    (n, d), m = embeddings.shape, candidates.shape[1]

    def compare(rows: Array) -> Array:  # [n c] -> [n c]
        return product("nd,ncd->nc", embeddings, bank[rows])

    batch_size = max(1, GATHERED_BYTES * batch_axes.shards() // (n * d * bank.dtype.itemsize))
    chunk = chunk_size(m, batch_size)
    if chunk == m:
        return compare(candidates) / temperature
    candidates = jnp.pad(candidates, ((0, 0), (0, -m % chunk)))
    chunks = candidates.reshape(n, -1, chunk).swapaxes(0, 1)  # (m / chunk, n, chunk)
    # The backward pass gathers the rows again. CSE cannot merge a loop with its transpose, so
    # `prevent_cse` is not needed.
    compare = jax.checkpoint(compare, prevent_cse=False)
    logits = jax.lax.map(compare, chunks).swapaxes(0, 1).reshape(n, -1)
    return logits[:, :m] / temperature


def log_normalizer(logits: Float[Array, "n m"], num_examples: int) -> Float[Array, ""]:
    """Estimates log Z from a batch: Z = N times the mean of exp(logits).

    The paper estimates Z from the first batch and then keeps it constant (Sec. 3.2).

    Args:
      logits: [n m] from `bank_logits`, of positives and negatives, as in the released code.
      num_examples: N, rows of the bank.

    Returns:
      float32 [], without gradient.
    """
    logits = jax.lax.stop_gradient(logits)
    return jax.nn.logsumexp(logits) - math.log(logits.size) + math.log(num_examples)


def nce(
    logits: Float[Array, "n m"], *, log_z: Scalar, num_examples: int
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Noise-contrastive estimation with uniform noise (InstDisc, Eq. 7).

    h(i, v) = P(i|v) / (P(i|v) + m/N) is the posterior probability that row i belongs to the image
    of v and is not one of m negatives drawn from the N rows:

        l = -log h(i, v) - sum over negatives j of log(1 - h(j, v))

    h is computed as the logistic function of log P - log(m/N), so that no logarithm needs a small
    constant against log 0.

    Args:
      logits: [n 1+m] from `bank_logits`: the positive first, then the m negatives.
      log_z: log Z.
      num_examples: N.

    Returns:
      (loss, metrics): the mean over the n embeddings, float32 [], and `contrastive_accuracy`, the
      share of embeddings without a negative closer than the positive, 0 to 1.
    """
    num_negatives = logits.shape[1] - 1
    log_odds = logits - log_z - math.log(num_negatives / num_examples)
    positive, negative = jax.nn.softplus(-log_odds[:, 0]), jax.nn.softplus(log_odds[:, 1:])
    return jnp.mean(positive + negative.sum(axis=1)), {"contrastive_accuracy": _accuracy(logits)}


def softmax_over_candidates(
    logits: Float[Array, "n m"],
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Cross-entropy over the positive and drawn negatives: Eq. 2 with a sum over these only.

    Args:
      logits: [n 1+m] from `bank_logits`: the positive first, then the m negatives.

    Returns:
      (loss, metrics): the mean over the n embeddings, float32 [], and the metrics of `nce`.
    """
    loss = jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[:, 0])
    return loss, {"contrastive_accuracy": _accuracy(logits)}


def softmax_over_bank(
    embeddings: Float[Array, "n d"],
    bank: Float[Array, "rows d"],
    index: Int[Array, " n"],
    *,
    temperature: Scalar,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Cross-entropy over all rows of the bank (InstDisc, Eq. 2).

    Large similarity matrices are computed tile by tile, see `choose_one_sided`.

    Args:
      embeddings: [n d], of norm 1; n is a multiple of the number of devices.
      bank: [N d]; without gradient.
      index: int [n], the row of the positive of each embedding.
      temperature: t > 0.

    Returns:
      (loss, metrics): the mean over the n embeddings, float32 [], and the metrics of `nce`.

    Raises:
      ValueError: the temperature is not positive, or n is not a multiple of the number of devices.
    """
    check_temperature(temperature)
    batch_axes.check_divisible(len(embeddings), "embeddings")
    bank = jax.lax.stop_gradient(jnp.asarray(bank))
    queries = embeddings / temperature
    implementation, _ = choose_one_sided(len(embeddings), len(bank))
    plan = pair_plan.Plan(block_size=None if implementation == "dense" else BLOCK_SIZE)
    stats = pairs.statistics(queries, bank, columns=pairs.WHOLE, plan=plan)
    positive = row_products(queries, bank[index])
    # `top` includes the positive, summed in another order: the two differ by rounding.
    nearest = jax.lax.stop_gradient(positive) >= stats.top - 1e-4
    metrics = {"contrastive_accuracy": jnp.mean(nearest.astype(jnp.float32))}
    return jnp.mean(stats.lse - positive), metrics


def _accuracy(logits: Array) -> Array:
    logits = jax.lax.stop_gradient(logits)
    return jnp.mean((logits[:, 0] >= logits[:, 1:].max(axis=1)).astype(jnp.float32))
