"""Losses of classifiers over the labelled examples of the global batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ssl_jax.core.arrays import Array, Scalar


def cross_entropy(
    logits: Float[Array, "n c"],
    labels: Int[Array, " n"],
    *,
    label_smoothing: float = 0.0,
    mixed: tuple[Int[Array, " n"], Float[Array, " n"]] | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Mean cross-entropy of the labelled examples, with smoothed labels (Szegedy et al. 2016).

        l_i = -sum_k q_ik log p_ik,    q_ik = (1 - e) [k = y_i] + e / c

    For mixed examples (mixup, cutmix) [k = y_i] is s_i [k = y_i] + (1 - s_i) [k = y'_i].

    Args:
      logits: [n c], any float dtype; the arithmetic is float32.
      labels: int [n]; -1: no label. Means are over the labelled examples, and 0 if there are none.
      label_smoothing: e, 0 to 1.
      mixed: (y', s), labels and float [n]; a label of -1 needs s = 1. None: s = 1.

    Returns:
      (loss, metrics): float32 []; `accuracy`, the share of labelled examples whose class has the
      largest logit; and, with more than five classes, `top5`, the share whose class is among the
      five largest, both 0 to 1. A mixed example counts with the shares of its classes. If logits
      are equal, the lower class ranks first.

    Raises:
      ValueError: the shapes do not fit, or `label_smoothing` is out of range.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"cross_entropy takes logits [n c] and labels [n], got {logits.shape} and "
            f"{labels.shape}"
        )
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be between 0 and 1, got {label_smoothing}")
    logits = logits.astype(jnp.float32)
    labelled = labels >= 0
    at_label, rank = _logit_and_rank(logits, labels)
    hits = {"accuracy": rank == 0, "top5": rank < 5}
    if mixed is not None:
        partner, share = mixed
        at_partner, partner_rank = _logit_and_rank(logits, partner)
        at_label = share * at_label + (1 - share) * at_partner
        partner_hits = {"accuracy": partner_rank == 0, "top5": partner_rank < 5}
        hits = jax.tree.map(lambda a, b: share * a + (1 - share) * b, hits, partner_hits)
    target = (1 - label_smoothing) * at_label + label_smoothing * logits.mean(axis=1)
    losses = jax.nn.logsumexp(logits, axis=1) - target
    count = jnp.maximum(labelled.sum(), 1)

    def mean(x: Array) -> Array:
        return jnp.where(labelled, x, 0).sum() / count

    metrics = {"accuracy": mean(hits["accuracy"])}
    if logits.shape[1] > 5:
        metrics["top5"] = mean(hits["top5"])
    return mean(losses), metrics


def _logit_and_rank(logits: Array, labels: Array) -> tuple[Array, Array]:
    """The logit of each label, and the number of classes that rank higher: [n] both."""
    label = jnp.maximum(labels, 0)[:, None]
    at_label = jnp.take_along_axis(logits, label, axis=1)  # (n, 1)
    classes = jnp.arange(logits.shape[1])
    ranks_higher = (logits > at_label) | ((logits == at_label) & (classes < label))
    return at_label[:, 0], ranks_higher.sum(axis=1)


def distillation(
    logits: Float[Array, "n c"],
    teacher_logits: Float[Array, "n c"],
    *,
    temperature: Scalar = 1.0,
) -> Float[Array, ""]:
    """Cross-entropy of the student's class probabilities with the teacher's; needs no labels.

        l_i = -sum_k P_T(k | x_i) log P_S(k | x_i),    P(k | x) = softmax(logits / t)_k

    SimCLR v2 (Chen et al. 2020, Eq. 2). As there, no factor compensates the temperature's effect on
    the size of the gradient.

    Args:
      logits: the student's, [n c], any float dtype; the arithmetic is float32.
      teacher_logits: [n c]; without gradient.
      temperature: t > 0, a divisor of both logits.

    Returns:
      The mean over all n examples, float32 [].

    Raises:
      ValueError: the shapes differ or are not [n c].
    """
    if logits.ndim != 2 or logits.shape != teacher_logits.shape:
        raise ValueError(
            f"distillation takes two [n c], got {logits.shape} and {teacher_logits.shape}"
        )
    student, teacher = (
        jax.nn.log_softmax(x.astype(jnp.float32) / temperature, axis=1)
        for x in (logits, jax.lax.stop_gradient(teacher_logits))
    )
    return -jnp.mean(jnp.sum(jnp.exp(teacher) * student, axis=1))
