"""Contrastive losses over the global batch, as pure functions of embeddings.

Arrays are global: a loss and its gradient do not depend on the number of devices. The ambient mesh,
set by `jax.set_mesh`, determines which devices split the batch; without a mesh one device holds the
whole batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.core import batch_axes
from ssl_jax.core.arrays import Array, Scalar
from ssl_jax.losses import blockwise, pair_plan, pairs
from ssl_jax.losses.blockwise import Negatives
from ssl_jax.losses.implementation import (
    BLOCK_SIZE,
    IMPLEMENTATIONS,
    ONE_SIDED,
    check_implementation,
    choose_implementation,
    tile_size,
)
from ssl_jax.losses.tiles import (
    MASKED,
    MAX_CONSTANT_SHIFT,
    check_temperature,
    row_products,
    similarity,
)


def unit_length(
    x: Float[Array, "*n d"], *, scale: Scalar = 1.0, eps: float = 1e-6
) -> Float[Array, "*n d"]:
    """Scales vectors to norm `scale`. A zero vector stays zero, with a finite gradient.

    Args:
      x: [... d], any float dtype; norms are over the last axis, in float32.
      scale: norm of the result.
      eps: vectors with a smaller norm are divided by eps instead of by their norm.

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
    decoupled: bool = False,
    positive_sigma: float | None = None,
    implementation: str = "auto",
    block_size: int | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The normalised temperature-scaled cross-entropy (SimCLR, Chen et al. 2020, Eq. 1).

    Each of the 2n views is an anchor. Its positive is the other view of its image, and its
    negatives are the 2n-2 views of the other images:

        l_i = -log  exp(s_ip / t) / sum_{j != i} exp(s_ij / t),    s_ij = cos(z_i, z_j)

    Args:
      za: [n d] embeddings of the first views, float32 or bfloat16, of any norm.
      zb: [n d] embeddings of the second views; row i belongs to row i of `za`.
      temperature: t > 0, a divisor of the similarities.
      l2_normalize: use cosine similarities. False uses plain dot products, as in the unnormalised
        rows of Table 5.
      negatives: [k d], additional negatives of every view, the same on every device, such as a
        memory of a momentum encoder's embeddings (SimCLR v2, Chen et al. 2020b, section 2). They
        are differentiated: pass `jax.lax.stop_gradient(memory)` to stop their gradient.
      decoupled: leave the positive out of the denominator: decoupled contrastive learning (DCL, Yeh
        et al. 2022, Eq. 6).
      positive_sigma: sigma > 0, only if `decoupled`: the positive terms s_ip / t are weighted with
        2 - n softmax_i(s_ip / sigma), larger for far positives (DCLW, Eq. 7; sigma 0.5). The
        weights are differentiated, as in the released code.
      implementation: how the loss is computed; the result is the same. "dense" stores the [2n 2n]
        matrix. "blockwise" computes it tile by tile in memory linear in n, with all embeddings on
        every device. "ring" sends the embeddings from device to device, for batches whose
        embeddings do not fit on one device. "auto" chooses by size, see `choose_implementation`.
      block_size: views on a side of a tile; `BLOCK_SIZE` by default.

    Returns:
      (loss, metrics): the mean over the 2n anchors, float32 [], and two float32 scalars, which
      compare each row of `za` with the n candidates `zb` as in the paper's Table 5:
      `contrastive_accuracy`, the share of rows whose nearest candidate is the positive, 0 to 1, and
      `entropy`, the mean entropy of the softmax over the candidates, nats.

    Raises:
      ValueError: shapes differ or are not [n d], `negatives` is not [k d], the temperature or sigma
        is not positive, sigma is given without `decoupled`, the implementation is unknown, or n is
        not a multiple of the number of devices.
    """
    _check_shapes("nt_xent", za, zb)
    if positive_sigma is not None and not (decoupled and positive_sigma > 0):
        raise ValueError(
            f"positive_sigma {positive_sigma} must be positive, and needs decoupled=True"
        )
    _check_negatives(negatives, za.shape[1])
    is_constant = check_temperature(temperature)
    check_implementation(implementation, IMPLEMENTATIONS, block_size)
    # Both factors of a similarity are divided by the square root of the temperature.
    scale = 1 / jnp.sqrt(temperature)
    if l2_normalize:
        za, zb = (unit_length(z, scale=scale) for z in (za, zb))
    else:
        za, zb = ((z * scale).astype(z.dtype) for z in (za, zb))

    n, d = za.shape
    bounded = l2_normalize and is_constant and 1 / temperature <= MAX_CONSTANT_SHIFT
    shift = 1 / float(temperature) if bounded else None
    chosen = implementation
    if chosen == "auto":
        chosen, _ = choose_implementation(n, d, itemsize=za.dtype.itemsize)
    if chosen == "dense":
        stats = _dense(za, zb)
    else:
        plan = blockwise.make_plan(
            n,
            ring=chosen == "ring",
            block_size=block_size or BLOCK_SIZE,
            shift=shift,
        )
        stats = blockwise.negatives(za, zb, plan)

    positive = row_products(za, zb)
    lse_a, lse_b = stats.lse_a, stats.lse_b
    if not decoupled:
        lse_a, lse_b = (jnp.logaddexp(lse, positive) for lse in (lse_a, lse_b))
    if negatives is not None:
        if l2_normalize:
            negatives = unit_length(negatives, scale=scale)
        else:
            negatives = (negatives * scale).astype(negatives.dtype)
        plan = pair_plan.Plan(tile_size(implementation, n, len(negatives), block_size), shift=shift)
        lse_a, lse_b = (
            jnp.logaddexp(lse, pairs.statistics(z, negatives, columns=pairs.WHOLE, plan=plan).lse)
            for lse, z in ((lse_a, za), (lse_b, zb))
        )
    attraction = positive
    if positive_sigma is not None:
        attraction *= 2 - n * jax.nn.softmax(positive * (temperature / positive_sigma))
    loss = jnp.mean(0.5 * (lse_a + lse_b) - attraction)
    return loss, _ranking(positive, stats.cross_lse, stats.cross_mean, stats.cross_max)


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

    The positive of query i is key i:

        l_i = -log  exp(s_i+ / t) / (exp(s_i+ / t) + sum_j exp(s_ij / t))

    The negatives j are the other keys of the global batch (MoCo v3), the rows of a queue or memory
    bank (MoCo), or both. Queries, keys and negatives are all differentiated. If the keys come from
    a momentum encoder, pass `jax.lax.stop_gradient(keys)`: their gradient is then neither computed
    nor sent between devices.

    Args:
      queries: [n d], float32 or bfloat16, of any norm; split over the devices.
      keys: [n d]; row i is the positive of query i.
      temperature: t > 0, a divisor of the similarities.
      l2_normalize: use cosine similarities, also to the negatives; unit vectors change only by
        rounding. False uses plain dot products. Only the queries are divided by the temperature, so
        bfloat16 keys and negatives are not rounded again.
      negatives: [k d], additional negatives of every query, the same on every device.
      in_batch: use the other keys as negatives. Default: only if `negatives` is None.
      negatives_sharded: the rows of `negatives` are split over the devices and are not gathered;
        the queries are gathered instead. Use it for k > n.
      implementation: how the loss is computed; the result is the same. "dense" stores the matrix of
        similarities. "blockwise" computes it tile by tile, in memory linear in n + k. "auto"
        chooses by size, see `choose_one_sided`.
      block_size: queries and keys on a side of a tile; `BLOCK_SIZE` by default.

    Returns:
      (loss, metrics): the mean over the n queries, float32 [], and two float32 scalars:
      `contrastive_accuracy`, the share of queries without a negative closer than the positive, 0 to
      1, and `entropy`, the mean entropy of the softmax over positive and negatives, nats.

    Raises:
      ValueError: queries and keys differ in shape or are not [n d], negatives are not [k d], there
        are no negatives, the temperature is not positive, the implementation is unknown, or n, or k
        of sharded negatives, is not a multiple of the number of devices.
    """
    _check_shapes("info_nce", queries, keys)
    is_constant = check_temperature(temperature)
    check_implementation(implementation, ONE_SIDED, block_size)
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
    plan = pair_plan.Plan(
        tile_size(implementation, n, n * in_batch + _rows(negatives), block_size),
        shift=_bound(temperature) if l2_normalize and is_constant else None,
    )
    parts = []
    if in_batch:
        parts.append(pairs.statistics(queries, keys, columns=pairs.BATCH, plan=plan))
    if negatives is not None:
        columns = pairs.SPLIT if negatives_sharded else pairs.WHOLE
        parts.append(pairs.statistics(queries, negatives, columns=columns, plan=plan))
    stats = pairs.merge(parts)
    positive = row_products(queries, keys)
    # softplus(lse - s) is -log softmax at the positive, without cancellation where it is near 0.
    loss = jnp.mean(jax.nn.softplus(stats.lse - positive))
    return loss, _ranking(positive, stats.lse, stats.mean, stats.top)


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

    Anchors are the first views a_i. The positive is b_i. As in the paper's comparison (Table 4) the
    negatives come from one view only: they are the b_j of the other images:

        l_i = -log sigma(s_i+ / t) - sum_{j != i} log sigma(-s_ij / t),    s_ij = cos(a_i, b_j)

    The paper's table gives the gradient with respect to one anchor, which is that of n times this
    mean. To use the anchors of both views, average two calls with the views swapped.

    Args:
      za: [n d] embeddings of the anchors, float32 or bfloat16, of any norm.
      zb: [n d] embeddings of the second views; row i belongs to row i of `za`.
      temperature: t > 0, a divisor of the similarities.
      l2_normalize: use cosine similarities. False uses plain dot products.
      semi_hard: use one negative for each anchor: the closest of those that are farther away than
        the positive by more than rounding. An anchor without such a negative has only the positive
        term.
      implementation, block_size: as in `info_nce`.

    Returns:
      (loss, metrics): the mean over the n anchors of the positive term plus the *sum* over the
      negatives, float32 []; and the metrics of `info_nce`, over all negatives even if `semi_hard`.
      `entropy` is that of a softmax at this temperature.

    Raises:
      ValueError: shapes differ or are not [n d], the temperature is not positive, the
        implementation is unknown, or n is not a multiple of the number of devices.
    """
    _check_shapes("nt_logistic", za, zb)
    is_constant = check_temperature(temperature)
    check_implementation(implementation, ONE_SIDED, block_size)
    batch_axes.check_divisible(len(za), "images")
    if l2_normalize:
        za, zb = unit_length(za, scale=1 / temperature), unit_length(zb)
    else:
        za = (za / temperature).astype(za.dtype)
    plan = pair_plan.Plan(
        tile_size(implementation, len(za), len(za), block_size),
        shift=_bound(temperature) if l2_normalize and is_constant else None,
        function=None if semi_hard else _repulsion,
        nearest=semi_hard,
    )
    positive = row_products(za, zb)
    threshold = _semi_hard_threshold(positive, za, zb) if semi_hard else positive
    stats = pairs.statistics(za, zb, threshold, columns=pairs.BATCH, plan=plan)
    repulsion = jax.nn.softplus(stats.nearest) if semi_hard else stats.total
    loss = jnp.mean(jax.nn.softplus(-positive) + repulsion)
    return loss, _ranking(positive, stats.lse, stats.mean, stats.top)


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
      za: [n d] embeddings of the anchors, float32 or bfloat16, of any norm.
      zb: [n d] embeddings of the second views; row i belongs to row i of `za`.
      margin: m >= 0.
      l2_normalize: use cosine similarities. False uses plain dot products.
      semi_hard: use one negative for each anchor: the closest of those inside the margin that are
        farther away than the positive by more than rounding. The loss of an anchor without such a
        negative is 0; with m = 0 that is every anchor.
      implementation, block_size: as in `info_nce`.

    Returns:
      (loss, metrics): the mean over the n anchors of the *sum* over negatives, float32 []; and
      `contrastive_accuracy` as in `info_nce`. There is no `entropy`, because there is no
      temperature.

    Raises:
      ValueError: shapes differ or are not [n d], the margin is negative, the implementation is
        unknown, or n is not a multiple of the number of devices.
    """
    _check_shapes("margin_triplet", za, zb)
    if not isinstance(margin, jax.core.Tracer) and not margin >= 0:
        raise ValueError(f"margin must not be negative, got {margin}")
    check_implementation(implementation, ONE_SIDED, block_size)
    batch_axes.check_divisible(len(za), "images")
    if l2_normalize:
        za, zb = unit_length(za), unit_length(zb)
    plan = pair_plan.Plan(
        tile_size(implementation, len(za), len(za), block_size),
        softmax=False,
        function=None if semi_hard else _hinge,
        nearest=semi_hard,
    )
    positive = row_products(za, zb)
    threshold = _semi_hard_threshold(positive, za, zb) if semi_hard else positive - margin
    stats = pairs.statistics(za, zb, threshold, columns=pairs.BATCH, plan=plan)
    # If the closest of the farther negatives is outside the margin, all of them are.
    violation = _hinge(stats.nearest, positive - margin) if semi_hard else stats.total
    return jnp.mean(violation), {"contrastive_accuracy": _accuracy(positive, stats.top)}


def _dense(za: Array, zb: Array) -> Negatives:
    """The same as `blockwise.negatives`, from the whole similarity matrices."""
    same_image = jnp.eye(len(za), dtype=bool)
    s_ab, s_aa, s_bb = (
        jnp.where(same_image, MASKED, similarity(x, y)) for x, y in ((za, zb), (za, za), (zb, zb))
    )
    lse_ab = jax.nn.logsumexp(s_ab, axis=1)
    s, lse = jax.lax.stop_gradient((s_ab, lse_ab))
    return Negatives(
        lse_a=jnp.logaddexp(lse_ab, jax.nn.logsumexp(s_aa, axis=1)),
        lse_b=jnp.logaddexp(jax.nn.logsumexp(s_ab, axis=0), jax.nn.logsumexp(s_bb, axis=1)),
        cross_lse=lse,
        cross_mean=jnp.sum(jnp.where(same_image, 0, jnp.exp(s - lse[:, None]) * s), axis=1),
        cross_max=jnp.max(s, axis=1),
    )


def _check_shapes(name: str, x: Array, y: Array) -> None:
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(f"{name} takes two [n d] arrays of one shape, got {x.shape}, {y.shape}")


def _check_negatives(negatives: Array | None, d: int) -> None:
    if negatives is None:
        return
    if negatives.ndim != 2 or negatives.shape[1] != d or not len(negatives):
        raise ValueError(f"negatives must be [k {d}] like the embeddings, got {negatives.shape}")


def _rows(x: Array | None) -> int:
    return 0 if x is None else len(x)


def _bound(temperature: float | Array) -> float | None:
    """The bound 1/t of cosine similarities, or None if it is too large for a constant shift."""
    bound = 1 / float(temperature)
    return bound if bound <= MAX_CONSTANT_SHIFT else None


def _repulsion(s: Array, threshold: Array) -> Array:
    """-log sigma(-s)"""
    del threshold
    return jax.nn.softplus(s)


def _hinge(s: Array, threshold: Array) -> Array:
    return jax.nn.relu(s - threshold)


def _semi_hard_threshold(positive: Array, za: Array, zb: Array) -> Array:
    """[n]: negatives with a smaller similarity are farther away than the positive.

    The tolerance excludes copies of the positive, as in a collapsed batch, which differ from it by
    rounding.
    """
    norms = jnp.sqrt(row_products(za, za) * row_products(zb, zb))
    return jax.lax.stop_gradient(positive - 1e-6 * norms)


def _ranking(positive: Array, lse: Array, mean: Array, top: Array) -> dict[str, Array]:
    """The metrics of `info_nce`.

    Args:
      positive: [n], similarity of each anchor to its positive.
      lse, mean, top: [n], log-sum-exp, softmax-weighted mean and maximum of the similarities of
        each anchor to its negatives.
    """
    positive, lse, mean, top = jax.lax.stop_gradient((positive, lse, mean, top))
    lse_of_all = jnp.logaddexp(lse, positive)
    # The entropy of a softmax p is sum_k p_k (log-sum-exp - logit_k).
    negative_terms = jnp.exp(lse - lse_of_all) * (lse_of_all - mean)
    entropy = negative_terms + jnp.exp(positive - lse_of_all) * (lse_of_all - positive)
    return {
        "contrastive_accuracy": _accuracy(positive, top),
        "entropy": jnp.mean(entropy),
    }


def _accuracy(positive: Array, top: Array) -> Array:
    """The share of anchors without a negative closer than the positive."""
    return jnp.mean((positive >= top).astype(jnp.float32))
