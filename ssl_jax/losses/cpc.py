"""Contrastive predictive coding: InfoNCE over steps of prediction (CPC, van den Oord et al. 2018).

A context c_t predicts the latent k steps later, z_{t+k}, by a map of its own for each k. Step k has
the loss (Eq. 4, with the scores of Eq. 3)

    L_k = - mean_t log  exp(s_{t+k}) / sum_{j in X} exp(s_j),    s_j = p_{t,k} . z_j

where p_{t,k} = W_k c_t is the prediction and X holds the positive z_{t+k} and its negatives. X of N
candidates bounds the mutual information of context and latent from below by log N - L_k; constant
scores have L_k = log N.

A sequence is a row of positions: the frames of a recording, or the patches of an image row by row.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ssl_jax.core import batch_axes
from ssl_jax.core.arrays import Array
from ssl_jax.losses import pair_plan, pairs
from ssl_jax.losses.implementation import BLOCK_SIZE, choose_one_sided
from ssl_jax.losses.tiles import MASKED, row_products

# Which latents are negatives, in the order of the paper's Table 2.
MIXED = "mixed"  # all other latents of the batch
SAME = "same"  # those of sequences of the same group
MIXED_EXCLUDING = "mixed_excluding"  # those of other sequences
SAME_EXCLUDING = "same_excluding"  # those of other sequences of the same group
CURRENT = "current"  # those of the sequence itself
NEGATIVES = (MIXED, SAME, MIXED_EXCLUDING, SAME_EXCLUDING, CURRENT)
# Of these, the ones that compare groups.
GROUPED = (SAME, SAME_EXCLUDING)


def cpc(
    predictions: Mapping[int, Float[Array, "n _ d"]],
    targets: Float[Array, "n q d"],
    groups: Int[Array, " n"] | None = None,
    *,
    negatives: str = MIXED,
    block_size: int | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """InfoNCE over the global batch, averaged over the steps of prediction.

    Scores are plain dot products. Similarities to other sequences are computed tile by tile where
    their matrix would be large, in memory linear in the number of predictions; those of "current"
    are stored, [n p q] for each step. Predictions and targets are both differentiated.

    Args:
      predictions: step k -> [n p d], p <= q, float32 or bfloat16. They end with the last target:
        the positive of prediction j is target q - p + j. If each position but the last k predicts
        k positions ahead, p is q - k; if it predicts k rows ahead in a grid [h w], q is h w and p
        is (h - k) w.
      targets: [n q d], the latents of n sequences. Also those that nothing predicts are negatives.
      groups: int [n], the group (the speaker) of each sequence. Only "same" and "same_excluding"
        need it.
      negatives: the other candidates of a prediction, over all devices: all other latents
        ("mixed"), those of the sequence's group ("same"), both without the sequence itself
        ("mixed_excluding", "same_excluding"), or those of the sequence itself ("current").
      block_size: predictions and targets on a side of a tile. Default: chosen by size.

    Returns:
      (loss, metrics): the mean of the losses of the steps, in nats, float32 []; and float32
      scalars: `loss_step_K` and `accuracy_step_K` of each step K, and `contrastive_accuracy`, the
      mean over steps. The accuracy is the share of predictions without a negative closer than the
      positive, 0 to 1. A prediction without negatives, as of the only sequence of its group, counts
      in neither.

    Raises:
      ValueError: shapes do not fit, there are no predictions, the kind of negatives is unknown or
        needs groups, or n is not a multiple of the number of devices.
    """
    _check(predictions, targets, groups, negatives)
    n, q, _ = targets.shape
    batch_axes.check_divisible(n, "sequences")
    rows = jnp.concatenate([predictions[k] for k in predictions], axis=1)  # (n, P, d)
    position = jnp.concatenate(
        [q - p.shape[1] + jnp.arange(p.shape[1]) for p in predictions.values()]
    )
    positive = row_products(rows, targets[:, position])  # (n, P)
    if negatives == CURRENT:
        lse, top = _within(rows, targets, position)
    else:
        stats = _across(rows, targets, position, groups, negatives, block_size)
        lse, top = (x.reshape(n, -1) for x in (stats.lse, stats.top))

    has_negatives = jax.lax.stop_gradient(top) > MASKED
    # softplus(lse - s) is -log softmax at the positive, without cancellation where it is near 0.
    loss = jax.nn.softplus(jnp.where(has_negatives, lse, positive) - positive)
    hit = (jax.lax.stop_gradient(positive) >= top).astype(jnp.float32)
    losses, accuracies, start = {}, {}, 0
    for k, p in predictions.items():
        part = (slice(None), slice(start, start + p.shape[1]))
        weight = has_negatives[part].astype(jnp.float32)
        total = jnp.maximum(weight.sum(), 1)
        losses[k] = jnp.sum(weight * loss[part]) / total
        accuracies[k] = jnp.sum(weight * hit[part]) / total
        start += p.shape[1]

    def mean(values: dict[int, Array]) -> Array:
        return jnp.mean(jnp.stack(list(values.values())))

    metrics = {"contrastive_accuracy": mean(accuracies)}
    metrics |= {f"accuracy_step_{k}": value for k, value in accuracies.items()}
    metrics |= {f"loss_step_{k}": jax.lax.stop_gradient(value) for k, value in losses.items()}
    return mean(losses), metrics


def _across(
    rows: Array,
    targets: Array,
    position: Array,
    groups: Array | None,
    negatives: str,
    block_size: int | None,
) -> pair_plan.Statistics:
    """Statistics of all predictions [n P d] over their negatives, each [n P] as one dimension."""
    (n, q, d), p = targets.shape, rows.shape[1]
    sequence = jnp.arange(n, dtype=jnp.int32)
    group = jnp.zeros(n, jnp.int32) if groups is None else groups.astype(jnp.int32)

    def ids(index: Array) -> Array:  # [m] positions within each sequence -> (n m, 3)
        own = sequence[:, None] * q + index[None, :]
        of_sequence = [jnp.broadcast_to(x[:, None], own.shape) for x in (sequence, group)]
        return jnp.stack([own, *of_sequence], axis=-1).reshape(-1, 3).astype(jnp.int32)

    if block_size is None and choose_one_sided(n * p, n * q)[0] != "dense":
        block_size = BLOCK_SIZE
    return pairs.statistics(
        rows.reshape(n * p, d),
        targets.reshape(n * q, d),
        columns=pairs.GATHERED,
        plan=pair_plan.Plan(block_size, excluded=_EXCLUDED[negatives]),
        row_ids=ids(position),
        column_ids=ids(jnp.arange(q)),
    )


def _within(rows: Array, targets: Array, position: Array) -> tuple[Array, Array]:
    """(log-sum-exp, maximum) of the scores [n P] of the other latents of the same sequence."""
    wide = jnp.promote_types(targets.dtype, jnp.float32)
    precision = jax.lax.Precision.HIGHEST if targets.dtype != jnp.bfloat16 else None
    scores = jnp.einsum(
        "npd,nqd->npq", rows.astype(targets.dtype), targets,
        precision=precision, preferred_element_type=wide,
    )  # fmt: skip
    is_positive = position[:, None] == jnp.arange(targets.shape[1])
    scores = jnp.where(is_positive, MASKED, scores)
    return jax.nn.logsumexp(scores, axis=-1), jax.lax.stop_gradient(scores.max(axis=-1))


# The ids of a latent: its index in the batch, its sequence, and its group. A prediction has those
# of its positive.


def _positive(row: Array, column: Array) -> Array:
    return row[..., 0] == column[..., 0]


def _positive_or_other_group(row: Array, column: Array) -> Array:
    return _positive(row, column) | (row[..., 2] != column[..., 2])


def _own_sequence(row: Array, column: Array) -> Array:
    return row[..., 1] == column[..., 1]


def _own_sequence_or_other_group(row: Array, column: Array) -> Array:
    return _own_sequence(row, column) | (row[..., 2] != column[..., 2])


_EXCLUDED = {
    MIXED: _positive,
    SAME: _positive_or_other_group,
    MIXED_EXCLUDING: _own_sequence,
    SAME_EXCLUDING: _own_sequence_or_other_group,
}


def _check(
    predictions: Mapping[int, Array], targets: Array, groups: Array | None, negatives: str
) -> None:
    if negatives not in NEGATIVES:
        raise ValueError(f"unknown negatives {negatives!r}; one of {', '.join(NEGATIVES)}")
    if targets.ndim != 3:
        raise ValueError(f"targets must be [n q d], got {targets.shape}")
    if not predictions:
        raise ValueError("cpc needs the predictions of at least one step")
    n, q, d = targets.shape
    for k, p in predictions.items():
        if p.ndim != 3 or (p.shape[0], p.shape[2]) != (n, d) or not 0 < p.shape[1] <= q:
            raise ValueError(
                f"predictions of step {k} must be [{n} p {d}] with 0 < p <= {q}, got {p.shape}"
            )
    if negatives in GROUPED and groups is None:
        raise ValueError(f"negatives {negatives!r} needs the group of each sequence")
    if groups is not None and groups.shape != (n,):
        raise ValueError(f"groups must be [{n}], got {groups.shape}")
