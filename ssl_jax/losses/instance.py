"""Instance discrimination against a memory bank (InstDisc, Wu et al. 2018).

Every training image i is a class of its own whose weight vector f_i is a remembered embedding, a
row of the memory bank. An embedding v is classified without parameters:

    P(i | v) = exp(v.f_i / t) / Z,    Z = sum_j exp(v.f_j / t)                             (Eq. 2)

With a million images the sum is replaced: by noise-contrastive estimation with a constant Z
(`nce`), or by a softmax over the own image and some drawn ones (`softmax_over_candidates`).
`softmax_over_bank` is the sum itself. The bank has no gradient: its rows follow the embeddings by
`update_bank`. A queue remembers the latest embeddings instead, whosever they are (MoCo).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ssl_jax.core import batch_axes
from ssl_jax.core.arrays import Array, Scalar
from ssl_jax.losses import pairs
from ssl_jax.losses.contrastive import BLOCK_SIZE, choose_one_sided, unit_length
from ssl_jax.losses.tiles import check_temperature, chunk_size, product, row_products

# Bank rows that a device gathers at a time to compare them with embeddings.
GATHERED_BYTES = 64 * 2**20


def init_bank(key: Array, num_examples: int, dim: int) -> Float[Array, "num_examples dim"]:
    """A bank [num_examples dim] of uniform numbers in +-1/sqrt(dim/3): rows of length about 1.

    As the released code; `update_bank` makes rows of length 1 exactly.
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
    """The bank after a batch: f_i <- m f_i + (1 - m) v_i, scaled to unit length. No gradient.

    Args:
      bank: [N d].
      index: int [n], the images' rows of the bank, no two alike.
      embeddings: [n d], v, of unit length.
      momentum: m; 0 keeps the latest embedding.
    """
    bank, embeddings = jax.lax.stop_gradient((jnp.asarray(bank), embeddings))
    mixed = momentum * bank[index] + (1 - momentum) * embeddings
    return bank.at[index].set(unit_length(mixed).astype(bank.dtype))


def init_queue(key: Array, length: int, *shape: int) -> dict[str, Array]:
    """A queue of random unit vectors, `queue` [length ... d], and `pointer`, its oldest row.

    As MoCo's released code begins (He et al. 2020).

    Args:
      key: draws the vectors.
      length: rows.
      *shape: of a row; its last dimension is d.

    Returns:
      `queue` float32 and `pointer` int32 [].
    """
    queue = unit_length(jax.random.normal(key, (length, *shape)))
    return {"queue": queue, "pointer": jnp.zeros((), jnp.int32)}


def enqueue(
    queue: Float[Array, "length ..."], pointer: Int[Array, ""], keys: Float[Array, "n ..."]
) -> dict[str, Array]:
    """A queue after a batch: its n keys in the place of the oldest, n a divisor of the length.

    Args:
      queue, pointer: of `init_queue`.
      keys: no gradient reaches them.

    Returns:
      The new `queue` and `pointer`.
    """
    keys = jax.lax.stop_gradient(keys).astype(queue.dtype)
    queue = jax.lax.dynamic_update_slice_in_dim(queue, keys, pointer, axis=0)
    return {"queue": queue, "pointer": (pointer + len(keys)) % len(queue)}


def nearest_keys(
    embeddings: Float[Array, "n d"], queue: Float[Array, "length d"]
) -> Float[Array, "n d"]:
    """The row of the queue that is nearest to each embedding (NNCLR, Dwibedi et al. 2021, Eq. 1).

    A device compares a part of its rows with the queue at a time.

    Args:
      embeddings: of unit length; n divides over the devices.
      queue: of unit length, the same on every device.

    Returns:
      Rows of the queue, without gradient.
    """

    def local(rows: Array, queue: Array) -> Array:
        def nearest(row: Array) -> Array:
            return jnp.argmax(product("kd,d->k", queue, row))

        at_once = max(1, GATHERED_BYTES // (len(queue) * 4))
        return queue[jax.lax.map(nearest, rows, batch_size=min(at_once, len(rows)))]

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
    """v_i.f_j / t for some images j of each i, without holding all the rows f_j at a time.

    Args:
      embeddings: [n d], of unit length.
      bank: [N d]; no gradient reaches it.
      candidates: int [n m], the rows j.
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

    at_once = max(1, GATHERED_BYTES * batch_axes.shards() // (n * d * bank.dtype.itemsize))
    chunk = chunk_size(m, at_once)
    if chunk == m:
        return compare(candidates) / temperature
    candidates = jnp.pad(candidates, ((0, 0), (0, -m % chunk)))
    chunks = candidates.reshape(n, -1, chunk).swapaxes(0, 1)  # (m / chunk, n, chunk)
    # What is gathered is gathered again for the gradient; a loop shares nothing with its transpose.
    compare = jax.checkpoint(compare, prevent_cse=False)
    logits = jax.lax.map(compare, chunks).swapaxes(0, 1).reshape(n, -1)
    return logits[:, :m] / temperature


def log_normalizer(logits: Float[Array, "n m"], num_examples: int) -> Float[Array, ""]:
    """log Z, estimated from a batch as the mean of exp over its logits, times the number of images.

    The paper estimates Z once, from the first batch, and keeps it (Sec. 3.2).

    Args:
      logits: [n m] of `bank_logits`, of the own images and drawn ones alike, as the released code.
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

    With h(i, v) = P(i|v) / (P(i|v) + m/N) the posterior probability that i is v's own image and not
    one of m drawn from N:

        l = -log h(i, v) - sum over the drawn j of log(1 - h(j, v))

    h is the logistic function of log P - log(m/N), so that no constant need guard a logarithm.

    Args:
      logits: [n 1+m] of `bank_logits`: the own image first, then the drawn ones.
      log_z: log Z.
      num_examples: N.

    Returns:
      (loss, metrics): the mean over the n embeddings, float32 [], and `contrastive_accuracy`, the
      share of embeddings to which no drawn image is closer than the own one.
    """
    drawn = logits.shape[1] - 1
    evidence = logits - log_z - math.log(drawn / num_examples)
    own, others = jax.nn.softplus(-evidence[:, 0]), jax.nn.softplus(evidence[:, 1:])
    return jnp.mean(own + others.sum(axis=1)), {"contrastive_accuracy": _accuracy(logits)}


def softmax_over_candidates(
    logits: Float[Array, "n m"],
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Cross-entropy of the own image among drawn ones: Eq. 2 with a sum over these alone.

    Args:
      logits: [n 1+m] of `bank_logits`: the own image first, then the drawn ones.

    Returns:
      (loss, metrics): the mean over the n embeddings, float32 [], and metrics as of `nce`.
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
    """Cross-entropy of the own image among all of the bank (InstDisc, Eq. 2).

    Similarities are made tile by tile where they are many (`choose_one_sided`).

    Args:
      embeddings: [n d], of unit length; n divides over the devices.
      bank: [N d]; no gradient reaches it.
      index: int [n], the own rows.
      temperature: t > 0.

    Returns:
      (loss, metrics): the mean over the n embeddings, float32 [], and `contrastive_accuracy` as of
      `nce`.

    Raises:
      ValueError: the temperature is not positive, or n does not divide over the devices.
    """
    check_temperature(temperature)
    batch_axes.check_divisible(len(embeddings), "embeddings")
    bank = jax.lax.stop_gradient(jnp.asarray(bank))
    queries = embeddings / temperature
    how, _ = choose_one_sided(len(embeddings), len(bank))
    plan = pairs.Plan(block_size=None if how == "dense" else BLOCK_SIZE)
    found = pairs.statistics(queries, bank, columns=pairs.WHOLE, plan=plan)
    own = row_products(queries, bank[index])
    # `top` is over the own row as well, as another sum: equal up to rounding.
    nearest = jax.lax.stop_gradient(own) >= found.top - 1e-4
    metrics = {"contrastive_accuracy": jnp.mean(nearest.astype(jnp.float32))}
    return jnp.mean(found.lse - own), metrics


def _accuracy(logits: Array) -> Array:
    logits = jax.lax.stop_gradient(logits)
    return jnp.mean((logits[:, 0] >= logits[:, 1:].max(axis=1)).astype(jnp.float32))
