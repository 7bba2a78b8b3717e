"""Losses of regression, of several labels an example, of word classes, and of answer spans.

They return a sum or a loss for each example, so that the caller can take the mean over all labels
of the global batch, which does not depend on how devices and micro-batches split it. Arithmetic is
in float32, or in float64 for float64 logits.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from ssl_jax.core.arrays import Array


def squared_error(
    predictions: Float[Array, " n"], targets: Float[Array, " n"]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """The squared error and the weight of each example.

    Args:
      predictions: float [n].
      targets: float [n], NaN for a missing target.

    Returns:
      (errors, weights): float32 [n] both. A missing target has weight 0, error 0 and no gradient;
      other examples have weight 1.

    Raises:
      ValueError: the shapes are not [n].
    """
    if predictions.ndim != 1 or targets.shape != predictions.shape:
        raise ValueError(
            f"squared_error takes two arrays [n], got {predictions.shape} and {targets.shape}"
        )
    known = ~jnp.isnan(targets)
    # Targets are replaced before the subtraction: otherwise the gradient would be NaN * 0 = NaN.
    difference = _wide(predictions) - jnp.where(known, targets, 0)
    return jnp.where(known, difference**2, 0), known.astype(difference.dtype)


def sigmoid_cross_entropy(
    logits: Float[Array, "n k"], labels: Int[Array, "n k"]
) -> dict[str, Array]:
    """Binary cross-entropy of each label, summed over the known labels of each example.

        l = -sum_k [y_k known] (y_k log s(x_k) + (1 - y_k) log(1 - s(x_k))),    s the sigmoid

    Args:
      logits: [n k], any float dtype.
      labels: int [n k]: 1 has the label, 0 has not, -1 is unknown.

    Returns:
      Sums over the known labels of each example, float32 [n]: `count`, their number; `loss`, nats;
      `hits`, the labels on whose side of 0 the logit is (a logit of 0 predicts no label).

    Raises:
      ValueError: the shapes do not fit.
    """
    if logits.ndim != 2 or labels.shape != logits.shape:
        raise ValueError(
            f"sigmoid_cross_entropy takes two [n k], got {logits.shape} and {labels.shape}"
        )
    logits = _wide(logits)
    known, has = labels >= 0, labels > 0
    losses = jax.nn.softplus(jnp.where(has, -logits, logits))
    hits = known & ((logits > 0) == has)
    return {
        "count": known.sum(axis=1).astype(logits.dtype),
        "loss": jnp.where(known, losses, 0).sum(axis=1),
        "hits": hits.sum(axis=1).astype(logits.dtype),
    }


def tag_cross_entropy(logits: Float[Array, "n l c"], tags: Int[Array, "n l"]) -> dict[str, Array]:
    """Cross-entropy of the classes of words, summed over each text.

    Args:
      logits: [n l c], any float dtype.
      tags: int [n l], the class of the word that begins at a token; -1 at all other tokens.

    Returns:
      Sums over the words of each text, float32 [n]: `count`, the number of words; `loss`, nats;
      `hits`, the number of words whose class has the largest logit. If logits are equal, the lowest
      class is the prediction.

    Raises:
      ValueError: the shapes do not fit.
    """
    if logits.ndim != 3 or tags.shape != logits.shape[:2]:
        raise ValueError(
            f"tag_cross_entropy takes logits [n l c] and tags [n l], got {logits.shape} and "
            f"{tags.shape}"
        )
    logits = _wide(logits)
    begins = tags >= 0
    losses = _cross_entropy(logits, jnp.maximum(tags, 0))
    hits = begins & (jnp.argmax(logits, axis=2) == tags)
    return {
        "count": begins.sum(axis=1).astype(logits.dtype),
        "loss": jnp.where(begins, losses, 0).sum(axis=1),
        "hits": hits.sum(axis=1).astype(logits.dtype),
    }


def span_cross_entropy(
    logits: Float[Array, "n l 2"], span: Int[Array, "n 2"], allowed: Bool[Array, "n l"]
) -> dict[str, Array]:
    """Cross-entropy of the first and last token of an answer (BERT, Devlin et al. 2018, Sec. 4.2).

        l = -(log p(start) + log q(end)) / 2

    p and q are softmaxes over the allowed tokens of the text.

    Args:
      logits: [n l 2], for the first and for the last token of the answer.
      span: int [n 2], the answer's first and last token.
      allowed: bool [n l], tokens that may be in an answer; those of `span` are always allowed.

    Returns:
      For each text, float32 [n]: `loss`, nats, and `hits`, 1 if both ends of the answer have the
      largest logit, else 0.

    Raises:
      ValueError: the shapes do not fit.
    """
    if (
        logits.ndim != 3
        or logits.shape[2] != 2
        or allowed.shape != logits.shape[:2]
        or span.shape != (len(logits), 2)
    ):
        raise ValueError(
            "span_cross_entropy takes logits [n l 2], span [n 2] and allowed [n l], got "
            f"{logits.shape}, {span.shape} and {allowed.shape}"
        )
    positions = jnp.arange(logits.shape[1])
    ends = positions[None, :, None] == span[:, None, :]  # (n, l, 2)
    end_logits = jnp.where(allowed[..., None] | ends, _wide(logits), -jnp.inf).swapaxes(1, 2)
    losses = _cross_entropy(end_logits, span)  # (n, 2)
    hits = (jnp.argmax(end_logits, axis=2) == span).all(axis=1)
    return {"loss": losses.mean(axis=1), "hits": hits.astype(losses.dtype)}


def _cross_entropy(logits: Array, classes: Array) -> Array:
    """-log softmax at `classes`, [... c] and int [...] to [...]."""
    at_class = jnp.take_along_axis(logits, classes[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - at_class


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
