"""Contrastive losses over the global batch, as pure functions of embeddings.

Written in the global view: a loss and its gradient are the same on any number of devices. The mesh
that `jax.set_mesh` made ambient says which devices split the batch; without one, one device has it
all.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.core import batch_axes
from ssl_jax.core.arrays import Array, Scalar
from ssl_jax.losses import blockwise, pairs
from ssl_jax.losses.blockwise import Negatives
from ssl_jax.losses.tiles import (
    MAX_CONSTANT_SHIFT,
    NEVER,
    check_temperature,
    row_products,
    similarity,
)

IMPLEMENTATIONS = ("auto", "dense", "blockwise", "ring")
# Of the losses whose anchors are all of one view.
ONE_SIDED = ("auto", "dense", "blockwise")
# Views on a side of a tile, unless told: 4 MiB of float32.
BLOCK_SIZE = 1024
# `auto` keeps the whole matrix up to this size a device, and all keys on a device up to that one.
DENSE_BYTES = 16 * 2**20
KEYS_BYTES = 2**30


def unit_length(
    x: Float[Array, "*n d"], *, scale: Scalar = 1.0, eps: float = 1e-6
) -> Float[Array, "*n d"]:
    """Scales the last axis to length `scale`; a zero vector stays zero, with a finite gradient.

    Args:
      x: [... d], any float dtype; the norm is taken in float32.
      scale: length of the result.
      eps: vectors shorter than this are divided by it instead of by their length.

    Returns:
      [... d] in the dtype of `x`.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.sum(wide * wide, axis=-1, keepdims=True)
    return (wide * (scale * jax.lax.rsqrt(jnp.maximum(square, eps * eps)))).astype(x.dtype)


def nt_xent(
    za: Float[Array, "n d"],
    zb: Float[Array, "n d"],
    *,
    temperature: Scalar,
    l2_normalize: bool = True,
    negatives: Float[Array, "k d"] | None = None,
    implementation: str = "auto",
    block_size: int | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The normalised temperature-scaled cross-entropy (SimCLR, Chen et al. 2020, Eq. 1).

    Each of the 2n views is an anchor once. Its positive is the other view of its image, its
    negatives are the 2n-2 views of the other images:

        l_i = -log  exp(s_ip / t) / sum_{j != i} exp(s_ij / t),    s_ij = cos(z_i, z_j)

    Args:
      za: [n d] embeddings of the first views, float32 or bfloat16, of any length.
      zb: [n d] embeddings of the second views; row i belongs to row i of `za`.
      temperature: t > 0, a divisor of the similarities.
      l2_normalize: False takes plain dot products (the unnormalised rows of Table 5).
      negatives: [k d], more negatives of every view, the same on every device, such as a memory of
        a momentum encoder's embeddings (SimCLR v2, Chen et al. 2020b, section 2). Gradients reach
        them too: pass `jax.lax.stop_gradient(memory)` where none is wanted.
      implementation: how, with one and the same result. "dense" holds the [2n 2n] matrix;
        "blockwise" makes it tile by tile, in memory linear in n, every device with all embeddings;
        "ring" sends the embeddings round, for batches of which a device cannot hold them all.
        "auto" picks by size, see `choose_implementation`.
      block_size: views on a side of a tile; `BLOCK_SIZE` by default.

    Returns:
      (loss, metrics): the mean over the 2n anchors, float32 [], and float32 scalars as in the
      paper's Table 5, which rank for each of `za` the n candidates `zb`: `contrastive_accuracy`,
      the share whose nearest candidate is the positive, and `entropy` (nats) of their softmax.

    Raises:
      ValueError: shapes differ or are not [n d], `negatives` is not [k d], the temperature is not
        positive, there is no such implementation, or n does not divide over the devices.
    """
    _check_two("nt_xent", za, zb)
    _check_negatives(negatives, za.shape[1])
    fixed = check_temperature(temperature)
    _check_how(implementation, IMPLEMENTATIONS, block_size)
    # The temperature goes into the embeddings, half into each factor of a product.
    scale = 1 / jnp.sqrt(temperature)
    if l2_normalize:
        za, zb = (unit_length(z, scale=scale) for z in (za, zb))
    else:
        za, zb = ((z * scale).astype(z.dtype) for z in (za, zb))

    n, d = za.shape
    bounded = l2_normalize and fixed and 1 / temperature <= MAX_CONSTANT_SHIFT
    shift = 1 / float(temperature) if bounded else None
    how = implementation
    if how == "auto":
        how, _ = choose_implementation(n, d, itemsize=za.dtype.itemsize)
    if how == "dense":
        found = _dense(za, zb)
    else:
        plan = blockwise.make_plan(
            n,
            ring=how == "ring",
            block_size=block_size or BLOCK_SIZE,
            shift=shift,
        )
        found = blockwise.negatives(za, zb, plan)

    positive = row_products(za, zb)
    lse_a, lse_b = (jnp.logaddexp(lse, positive) for lse in (found.lse_a, found.lse_b))
    if negatives is not None:
        if l2_normalize:
            negatives = unit_length(negatives, scale=scale)
        else:
            negatives = (negatives * scale).astype(negatives.dtype)
        plan = pairs.Plan(_block_size(implementation, n, len(negatives), block_size), shift=shift)
        lse_a, lse_b = (
            jnp.logaddexp(lse, pairs.statistics(z, negatives, columns=pairs.WHOLE, plan=plan).lse)
            for lse, z in ((lse_a, za), (lse_b, zb))
        )
    loss = jnp.mean(0.5 * (lse_a + lse_b) - positive)
    return loss, _ranking(positive, found.cross_lse, found.cross_mean, found.cross_max)


def info_nce(
    queries: Float[Array, "n d"],
    keys: Float[Array, "n d"],
    *,
    temperature: Scalar,
    l2_normalize: bool = True,
    negatives: Float[Array, "k d"] | None = None,
    in_batch: bool | None = None,
    negatives_sharded: bool = False,
    implementation: str = "auto",
    block_size: int | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """InfoNCE (CPC, van den Oord et al. 2018, Eq. 4), as MoCo uses it (He et al. 2020, Eq. 1).

    Query i is told from its negatives by its positive, key i:

        l_i = -log  exp(s_i+ / t) / (exp(s_i+ / t) + sum_j exp(s_ij / t))

    The negatives j are the other keys of the global batch (MoCo v3), or those of a queue or memory
    bank (MoCo), or both. Gradients reach queries, keys and negatives alike: pass
    `jax.lax.stop_gradient(keys)` where the keys come from a momentum encoder, and their gradient is
    neither worked out nor sent between devices.

    Args:
      queries: [n d], float32 or bfloat16, of any length; split over the devices.
      keys: [n d]; row i is the positive of query i.
      temperature: t > 0, a divisor of the similarities.
      l2_normalize: cosine similarities, of the negatives as well: entries of a bank that have unit
        length already keep it to rounding. False takes plain dot products. The temperature goes
        into the queries alone, so bfloat16 keys and negatives are not rounded another time.
      negatives: [k d], more negatives of every query, the same on every device.
      in_batch: whether the other keys are negatives; by default where there are no `negatives`.
      negatives_sharded: the rows of `negatives` are split over the devices, and stay there: the
        queries are gathered in their place. Choose it where k > n.
      implementation: how, with one and the same result. "dense" holds the matrix of similarities;
        "blockwise" makes it tile by tile, in memory linear in n + k. "auto" picks by size, see
        `choose_one_sided`.
      block_size: queries and keys on a side of a tile; `BLOCK_SIZE` by default.

    Returns:
      (loss, metrics): the mean over the n queries, float32 [], and float32 scalars:
      `contrastive_accuracy`, the share of queries to which no negative is closer than the positive,
      and `entropy` (nats) of the softmax over positive and negatives.

    Raises:
      ValueError: queries and keys differ in shape or are not [n d], negatives are not [k d], there
        are no negatives at all, the temperature is not positive, there is no such implementation,
        or n, or k of sharded negatives, does not divide over the devices.
    """
    _check_two("info_nce", queries, keys)
    fixed = check_temperature(temperature)
    _check_how(implementation, ONE_SIDED, block_size)
    n, d = queries.shape
    if in_batch is None:
        in_batch = negatives is None
    if negatives is None and (not in_batch or negatives_sharded):
        missing = "in_batch=False" if not in_batch else "negatives_sharded=True"
        raise ValueError(f"info_nce with {missing} needs negatives")
    _check_negatives(negatives, d)
    batch_axes.check_divisible(n, "queries")
    if negatives_sharded:
        batch_axes.check_divisible(len(negatives), "negatives")

    if l2_normalize:
        queries, keys = unit_length(queries, scale=1 / temperature), unit_length(keys)
        negatives = None if negatives is None else unit_length(negatives)
    else:
        queries = (queries / temperature).astype(queries.dtype)
    plan = pairs.Plan(
        _block_size(implementation, n, n * in_batch + _rows(negatives), block_size),
        shift=_bound(temperature) if l2_normalize and fixed else None,
    )
    parts = []
    if in_batch:
        parts.append(pairs.statistics(queries, keys, columns=pairs.BATCH, plan=plan))
    if negatives is not None:
        columns = pairs.SPLIT if negatives_sharded else pairs.WHOLE
        parts.append(pairs.statistics(queries, negatives, columns=columns, plan=plan))
    found = pairs.merge(parts)
    positive = row_products(queries, keys)
    # -log of the softmax at the positive, without the cancellation where it is close to 1.
    loss = jnp.mean(jax.nn.softplus(found.lse - positive))
    return loss, _ranking(positive, found.lse, found.mean, found.top)


def nt_logistic(
    za: Float[Array, "n d"],
    zb: Float[Array, "n d"],
    *,
    temperature: Scalar,
    l2_normalize: bool = True,
    semi_hard: bool = False,
    implementation: str = "auto",
    block_size: int | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The temperature-scaled logistic loss (NT-Logistic; SimCLR, Chen et al. 2020, Table 2).

    Anchors are the first views a_i. The positive is b_i; negatives are taken from one view only, as
    in the paper's comparison (Table 4), the b_j of the other images:

        l_i = -log sigma(s_i+ / t) - sum_{j != i} log sigma(-s_ij / t),    s_ij = cos(a_i, b_j)

    The paper's table gives the gradient with respect to one anchor, and n times this mean has just
    that one. Average two calls, the views swapped, for anchors of both views.

    Args:
      za: [n d] embeddings of the anchors, float32 or bfloat16, of any length.
      zb: [n d] embeddings of the second views; row i belongs to row i of `za`.
      temperature: t > 0, a divisor of the similarities.
      l2_normalize: False takes plain dot products.
      semi_hard: keeps one negative an anchor: the closest of those that are farther away than the
        positive, by more than rounding. An anchor without any has no term of negatives.
      implementation, block_size: as in `info_nce`.

    Returns:
      (loss, metrics): the mean over the n anchors of positive term and *sum* over negatives,
      float32 []; and of `info_nce`'s metrics, over all negatives also where `semi_hard`, the
      entropy that of a softmax at this temperature.

    Raises:
      ValueError: shapes differ or are not [n d], the temperature is not positive, there is no such
        implementation, or n does not divide over the devices.
    """
    _check_two("nt_logistic", za, zb)
    fixed = check_temperature(temperature)
    _check_how(implementation, ONE_SIDED, block_size)
    batch_axes.check_divisible(len(za), "images")
    if l2_normalize:
        za, zb = unit_length(za, scale=1 / temperature), unit_length(zb)
    else:
        za = (za / temperature).astype(za.dtype)
    plan = pairs.Plan(
        _block_size(implementation, len(za), len(za), block_size),
        shift=_bound(temperature) if l2_normalize and fixed else None,
        function=None if semi_hard else _repulsion,
        nearest=semi_hard,
    )
    positive = row_products(za, zb)
    number = _farther(positive, za, zb) if semi_hard else positive
    found = pairs.statistics(za, zb, number, columns=pairs.BATCH, plan=plan)
    repulsion = jax.nn.softplus(found.nearest) if semi_hard else found.total
    loss = jnp.mean(jax.nn.softplus(-positive) + repulsion)
    return loss, _ranking(positive, found.lse, found.mean, found.top)


def margin_triplet(
    za: Float[Array, "n d"],
    zb: Float[Array, "n d"],
    *,
    margin: Scalar,
    l2_normalize: bool = True,
    semi_hard: bool = False,
    implementation: str = "auto",
    block_size: int | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The margin triplet loss (SimCLR, Chen et al. 2020, Table 2; FaceNet, Schroff et al. 2015).

    Anchors are the first views a_i, as in `nt_logistic`:

        l_i = sum_{j != i} max(s_ij - s_i+ + m, 0),    s_ij = cos(a_i, b_j)

    Args:
      za: [n d] embeddings of the anchors, float32 or bfloat16, of any length.
      zb: [n d] embeddings of the second views; row i belongs to row i of `za`.
      margin: m >= 0.
      l2_normalize: False takes plain dot products.
      semi_hard: keeps one negative an anchor: the closest of those inside the margin and, by more
        than rounding, farther away than the positive. An anchor without any has no loss. With m = 0
        nothing is left.
      implementation, block_size: as in `info_nce`.

    Returns:
      (loss, metrics): the mean over the n anchors of the *sum* over negatives, float32 []; and
      `contrastive_accuracy` as in `info_nce`. There is no temperature, so no softmax whose entropy
      could be told.

    Raises:
      ValueError: shapes differ or are not [n d], the margin is negative, there is no such
        implementation, or n does not divide over the devices.
    """
    _check_two("margin_triplet", za, zb)
    if not isinstance(margin, jax.core.Tracer) and not margin >= 0:
        raise ValueError(f"margin must not be negative, got {margin}")
    _check_how(implementation, ONE_SIDED, block_size)
    batch_axes.check_divisible(len(za), "images")
    if l2_normalize:
        za, zb = unit_length(za), unit_length(zb)
    plan = pairs.Plan(
        _block_size(implementation, len(za), len(za), block_size),
        softmax=False,
        function=None if semi_hard else _hinge,
        nearest=semi_hard,
    )
    positive = row_products(za, zb)
    number = _farther(positive, za, zb) if semi_hard else positive - margin
    found = pairs.statistics(za, zb, number, columns=pairs.BATCH, plan=plan)
    # Where the closest of those farther away is outside the margin, all of them are.
    violation = _hinge(found.nearest, positive - margin) if semi_hard else found.total
    return jnp.mean(violation), {"contrastive_accuracy": _accuracy(positive, found.top)}


def choose_implementation(
    n: int, d: int, *, itemsize: int = 4, shards: int | None = None
) -> tuple[str, str]:
    """What `implementation="auto"` picks for n images with embeddings of d numbers, and why.

    Args:
      itemsize: bytes of one number.
      shards: devices that split the batch; those of the ambient mesh by default.

    Returns:
      (name, reason).
    """
    shards = batch_axes.shards() if shards is None else shards
    matrix, keys = (2 * n) ** 2 * 4 // shards, 2 * n * d * itemsize
    if matrix <= DENSE_BYTES:
        return "dense", f"the similarities take {_mebibytes(matrix)} a device"
    if shards > 1 and keys > KEYS_BYTES:
        return "ring", f"all embeddings would take {_mebibytes(keys)} on every device"
    return "blockwise", (
        f"the similarities would take {_mebibytes(matrix)} a device, the embeddings take "
        f"{_mebibytes(keys)}"
    )


def choose_one_sided(n: int, columns: int, *, shards: int | None = None) -> tuple[str, str]:
    """What `implementation="auto"` picks for n anchors, each against `columns` others, and why.

    Args:
      shards: devices that split the anchors; those of the ambient mesh by default.

    Returns:
      (name, reason).
    """
    shards = batch_axes.shards() if shards is None else shards
    matrix = n * columns * 4 // shards
    if matrix <= DENSE_BYTES:
        return "dense", f"the similarities take {_mebibytes(matrix)} a device"
    return "blockwise", f"the similarities would take {_mebibytes(matrix)} a device"


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.{1 if count < 10 * 2**20 else 0}f} MiB"


def _dense(za: Array, zb: Array) -> Negatives:
    """`blockwise.negatives` by way of the matrices themselves."""
    same = jnp.eye(len(za), dtype=bool)
    s_ab, s_aa, s_bb = (
        jnp.where(same, NEVER, similarity(x, y)) for x, y in ((za, zb), (za, za), (zb, zb))
    )
    lse_ab = jax.nn.logsumexp(s_ab, axis=1)
    fixed, fixed_lse = jax.lax.stop_gradient((s_ab, lse_ab))
    return Negatives(
        lse_a=jnp.logaddexp(lse_ab, jax.nn.logsumexp(s_aa, axis=1)),
        lse_b=jnp.logaddexp(jax.nn.logsumexp(s_ab, axis=0), jax.nn.logsumexp(s_bb, axis=1)),
        cross_lse=fixed_lse,
        cross_mean=jnp.sum(jnp.where(same, 0, jnp.exp(fixed - fixed_lse[:, None]) * fixed), axis=1),
        cross_max=jnp.max(fixed, axis=1),
    )


def _check_two(name: str, x: Array, y: Array) -> None:
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(f"{name} takes two [n d] arrays of one shape, got {x.shape}, {y.shape}")


def _check_negatives(negatives: Array | None, d: int) -> None:
    if negatives is None:
        return
    if negatives.ndim != 2 or negatives.shape[1] != d or not len(negatives):
        raise ValueError(f"negatives must be [k {d}] like the embeddings, got {negatives.shape}")


def _check_how(implementation: str, known: tuple[str, ...], block_size: int | None) -> None:
    if implementation not in known:
        raise ValueError(f"unknown implementation {implementation!r}; one of {', '.join(known)}")
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be positive, got {block_size}")


def _rows(x: Array | None) -> int:
    return 0 if x is None else len(x)


def _block_size(implementation: str, n: int, columns: int, block_size: int | None) -> int | None:
    """That of `pairs.Plan`, for n anchors against `columns`."""
    if implementation == "auto":
        implementation, _ = choose_one_sided(n, columns)
    return None if implementation == "dense" else block_size or BLOCK_SIZE


def _bound(temperature: float | Array) -> float | None:
    """1 / t, of all cosine similarities, where it serves as a constant shift."""
    bound = 1 / float(temperature)
    return bound if bound <= MAX_CONSTANT_SHIFT else None


def _repulsion(s: Array, number: Array) -> Array:
    """-log sigma(-s)"""
    del number
    return jax.nn.softplus(s)


def _hinge(s: Array, number: Array) -> Array:
    return jax.nn.relu(s - number)


def _farther(positive: Array, za: Array, zb: Array) -> Array:
    """[n]: below these similarities a negative is farther away than the positive.

    Copies of the positive, as in a collapsed batch, differ from it by rounding. They are not
    farther away.
    """
    lengths = jnp.sqrt(row_products(za, za) * row_products(zb, zb))
    return jax.lax.stop_gradient(positive - 1e-6 * lengths)


def _ranking(positive: Array, lse: Array, mean: Array, top: Array) -> dict[str, Array]:
    """How well candidates are told apart, from statistics [n] of the negatives among them.

    Args:
      positive: similarity of the positive.
      lse, mean, top: log-sum-exp, softmax-weighted mean and maximum of the negatives'.
    """
    positive, lse, mean, top = jax.lax.stop_gradient((positive, lse, mean, top))
    everyone = jnp.logaddexp(lse, positive)
    # The entropy of a softmax is the mean, under it, of its log-sum-exp less the logits.
    others = jnp.exp(lse - everyone) * (everyone - mean)
    entropy = others + jnp.exp(positive - everyone) * (everyone - positive)
    return {
        "contrastive_accuracy": _accuracy(positive, top),
        "entropy": jnp.mean(entropy),
    }


def _accuracy(positive: Array, top: Array) -> Array:
    """The share of anchors to which no negative is closer than the positive."""
    return jnp.mean((positive >= top).astype(jnp.float32))
