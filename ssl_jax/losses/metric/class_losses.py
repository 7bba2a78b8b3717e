"""Losses that compare examples with classes: a softmax whose own class has a margin.

    l_i = -log  exp(s f(cos t_i)) / (exp(s f(cos t_i)) + sum_{j != y_i} exp(s cos t_ij))

t_ij is the angle between example i and class j, t_i that to its own class, and f a margin
(`margins`). All return (loss, metrics): the mean over the labelled examples, float32 [], and
`class_accuracy`, the share of examples closest to their own class, without margin, `class_angle`
and `other_angle`, the mean angles in degrees to the own class and to the nearest other one.

`labels` are int [n] in [0, c), -1 for none. `weights` are [c k d], classes with k sub-centres, of
which the nearest counts; k = 1 are classes without (sub-center ArcFace, Deng et al. 2020). `x` are
embeddings [n d] of any norm. `num_classes`: see `classes.class_scores`. All raise ValueError if the
shapes do not agree, n does not divide over the devices, or scale or margin are out of bounds.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ssl_jax.core.arrays import Array, Scalar
from ssl_jax.losses.contrastive import unit_length
from ssl_jax.losses.metric import margins
from ssl_jax.losses.metric.classes import Scores, class_scores
from ssl_jax.losses.metric.distances import angle, safe_sqrt
from ssl_jax.losses.metric.strips import UNLABELLED

Result = tuple[Float[Array, ""], dict[str, Array]]
# The dynamic scale of AdaCos does not fall below it: with few, well separated classes the paper's
# formula would give 0 or less.
_MIN_SCALE = 1.0


def cosface(
    x: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "c k d"],
    *,
    scale: Scalar = 64.0,
    margin: float = 0.35,
    num_classes: int | None = None,
) -> Result:
    """f(cos t) = cos t - margin (CosFace, Wang et al. 2018); margin 0 is a softmax of cosines."""
    _check(scale, margin, 2.0)
    x = unit_length(_wide(x))
    scores = class_scores(x, labels, weights, scale=scale, num_classes=num_classes)
    return _softmax(scores, scale * (scores.target - margin), labels, scores.target)


def arcface(
    x: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "c k d"],
    *,
    scale: Scalar = 64.0,
    margin: float | Float[Array, " c"] = 0.5,
    straight_through: bool = False,
    num_classes: int | None = None,
) -> Result:
    """f(cos t) = cos(t + margin) (ArcFace, Deng et al. 2019); see `margins.arc`.

    `margin` is in radians, in [0, pi/2], for all classes or [c] for each: adaptive margins of
    imbalanced classes (Ha et al. 2020) are `margins.from_counts`.
    """
    _check(scale, margin, math.pi / 2)
    x = unit_length(_wide(x))
    scores = class_scores(x, labels, weights, scale=scale, num_classes=num_classes)
    own = margin if isinstance(margin, float | int) else margin[jnp.maximum(labels, 0)]
    target = margins.arc(scores.target, own, straight_through=straight_through)
    return _softmax(scores, scale * target, labels, scores.target)


def sphereface(
    x: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "c k d"],
    *,
    margin: int = 4,
    scale: Scalar = 1.0,
    annealing: Scalar = 0.0,
    num_classes: int | None = None,
) -> Result:
    """f(cos t) = psi(t) (A-Softmax, Liu et al. 2017); the scale of an example is |x| `scale`.

    `margin` is a whole number from 1. The target logit is the mean of |x| cos t with the weight
    `annealing` (`margins.annealing`) and |x| psi(t) with the weight 1.
    """
    if not (isinstance(margin, int) and 1 <= margin <= 8):
        raise ValueError(f"margin of sphereface must be a whole number from 1 to 8, got {margin}")
    _check(scale, 0.0, 1.0)
    x = _wide(x)
    norm = safe_sqrt(jnp.sum(jnp.square(x), axis=1))
    scores = class_scores(x, labels, weights, scale=scale, num_classes=num_classes)
    cosine = scores.target / jnp.maximum(norm, 1e-12)
    psi = margins.multiplicative(cosine, margin)
    target = scale * norm * (annealing * cosine + psi) / (1 + annealing)
    top = scores.top / jnp.maximum(norm, 1e-12)
    return _softmax(scores._replace(top=top), target, labels, cosine)


def adacos_scale(num_classes: int) -> float:
    """The fixed scale sqrt(2) log(c - 1) of AdaCos (Zhang et al. 2019, Eq. 14)."""
    if num_classes < 3:
        raise ValueError(f"the scale of AdaCos needs at least 3 classes, got {num_classes}")
    return math.sqrt(2) * math.log(num_classes - 1)


def adacos(
    x: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "c k d"],
    *,
    scale: Scalar,
    dynamic: bool = False,
    num_classes: int | None = None,
) -> tuple[Float[Array, ""], dict[str, Array], Float[Array, ""]]:
    """A softmax of cosines without margin, with the scale of AdaCos (Zhang et al. 2019).

    Args:
      x, labels, weights, num_classes: as above.
      scale: the fixed scale (`adacos_scale`); if `dynamic` the scale of the step before.
      dynamic: use the scale log(B) / cos(min(pi/4, t)), Eq. 15: B is the mean over the batch of the
        sum over the other classes of exp(`scale` cos), and t the median angle to the own class.

    Returns:
      (loss, metrics, scale of this step); no gradient flows through the scale.
    """
    _check(scale, 0.0, 1.0)
    x = unit_length(_wide(x))
    if dynamic:
        before = class_scores(
            *jax.lax.stop_gradient((x, labels, weights)), scale=scale, num_classes=num_classes
        )
        scale = _dynamic_scale(before, labels, scale)
    scores = class_scores(x, labels, weights, scale=scale, num_classes=num_classes)
    loss, metrics = _softmax(scores, scale * scores.target, labels, scores.target)
    return loss, {**metrics, "scale": jnp.asarray(scale, loss.dtype)}, jnp.asarray(scale)


def _dynamic_scale(scores: Scores, labels: Array, scale: Scalar) -> Array:
    labelled = labels != UNLABELLED
    count = jnp.sum(labelled, dtype=scores.target.dtype)
    log_b = jax.nn.logsumexp(scores.others, where=labelled) - jnp.log(jnp.maximum(count, 1))
    # The middle of the sorted angles, or the mean of the two middle ones.
    angles = jnp.sort(jnp.where(labelled, angle(scores.target), jnp.inf))
    last = jnp.maximum(count.astype(jnp.int32) - 1, 0)
    median = (angles[last // 2] + angles[(last + 1) // 2]) / 2
    new = jnp.maximum(log_b / jnp.cos(jnp.minimum(jnp.pi / 4, median)), _MIN_SCALE)
    return jnp.where(count > 0, new, scale)


def plain_softmax(
    x: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "c k d"],
    bias: Float[Array, " c"],
    *,
    num_classes: int | None = None,
) -> Result:
    """The cross-entropy of x.w + bias, a linear classifier, as center loss adds to it."""
    x = _wide(x)
    scores = class_scores(
        x, labels, weights, bias=bias, num_classes=num_classes, unit_weights=False
    )
    labelled = labels != UNLABELLED
    hits = (scores.target >= scores.top) & labelled
    loss = _mean(jax.nn.softplus(scores.others - scores.target), labelled)
    return loss, {"class_accuracy": _mean(hits.astype(loss.dtype), labelled)}


def center(
    x: Float[Array, "n d"], labels: Int[Array, " n"], centers: Float[Array, "c d"]
) -> Float[Array, ""]:
    """Center loss, the mean of |x - c_y|^2 / 2 (Wen et al. 2016, Eq. 2, divided by n).

    Args:
      x: [n d] embeddings.
      labels: int [n], -1 for none.
      centers: [c d], of the classes. They have a rule of their own: `update_centers`.
    """
    own = jax.lax.stop_gradient(centers)[jnp.maximum(labels, 0)]
    squared = jnp.sum(jnp.square(_wide(x) - own), axis=1)
    return _mean(squared / 2, labels != UNLABELLED)


def update_centers(
    centers: Float[Array, "c d"],
    x: Float[Array, "n d"],
    labels: Int[Array, " n"],
    *,
    rate: float = 0.5,
) -> Float[Array, "c d"]:
    """Moves the centres of the batch's classes towards its examples (Wen et al. 2016, Eq. 4).

        c_j <- c_j - rate  sum_{i: y_i = j} (c_j - x_i) / (1 + n_j)

    Args:
      centers: [c d].
      x: [n d] embeddings.
      labels: int [n], -1 for none.
      rate: alpha.

    Returns:
      [c d], without gradient; classes that the batch does not have stay as they are.
    """
    x, centers = jax.lax.stop_gradient((_wide(x), centers))
    labelled = labels != UNLABELLED
    rows = jnp.where(labelled, labels, len(centers))  # out of bounds: left out
    count = jnp.zeros(len(centers), x.dtype).at[rows].add(1, mode="drop")
    total = jnp.zeros_like(centers).at[rows].add(x.astype(centers.dtype), mode="drop")
    step = (count[:, None] * centers - total) / (1 + count[:, None])
    return centers - rate * step


def clean(
    x: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, "c k d"],
    *,
    max_angle: Scalar = 75.0,
) -> tuple[Array, Array]:
    """Which examples to keep after training with sub-centres (Deng et al. 2020, Sec. 3.3).

    The dominant sub-centre of a class is the nearest one of most of its examples. Examples farther
    than `max_angle` from it are taken for mislabelled; train on the others with one centre a class.

    Args:
      x: [n d], embeddings of the training set.
      labels: int [n], -1 for none.
      weights: [c k d].
      max_angle: degrees.

    Returns:
      (keep bool [n], dominant int32 [c]); unlabelled examples are not kept.
    """
    own = unit_length(_wide(weights))[jnp.maximum(labels, 0)]  # (n, k, d)
    cosines = jnp.einsum("nd,nkd->nk", unit_length(_wide(x)), own)
    return clean_cosines(cosines, labels, len(weights), max_angle=max_angle)


def clean_cosines(
    cosines: Float[Array, "n k"],
    labels: Int[Array, " n"],
    num_classes: int,
    *,
    max_angle: Scalar = 75.0,
) -> tuple[Array, Array]:
    """`clean`, from the cosines of each example to the k sub-centres of its class."""
    labelled = labels != UNLABELLED
    votes = jnp.zeros((num_classes, cosines.shape[1]), jnp.int32)
    rows = jnp.where(labelled, labels, num_classes)  # out of bounds: left out
    votes = votes.at[rows, cosines.argmax(1)].add(1, mode="drop")
    dominant = votes.argmax(1).astype(jnp.int32)
    chosen = dominant[jnp.maximum(labels, 0)]
    near = jnp.take_along_axis(cosines, chosen[:, None], axis=1)[:, 0]
    return labelled & (near >= jnp.cos(jnp.radians(max_angle))), dominant


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _check(scale: Scalar, margin: float | Array, largest: float) -> None:
    if isinstance(scale, float | int) and not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    if isinstance(margin, float | int) and not 0 <= margin <= largest:
        raise ValueError(f"margin must be from 0 to {largest:.4g}, got {margin}")


def _mean(each: Array, labelled: Array) -> Array:
    count = jnp.sum(labelled, dtype=each.dtype)
    return jnp.sum(jnp.where(labelled, each, 0)) / jnp.maximum(count, 1)


def _softmax(scores: Scores, target: Array, labels: Array, cosine: Array) -> Result:
    """The loss of target logits [n], and the metrics of the own classes' cosines [n]."""
    labelled = labels != UNLABELLED
    # softplus(lse - s) is -log softmax at the target, without cancellation where it is near 0.
    loss = _mean(jax.nn.softplus(scores.others - target), labelled)
    cosine, top = jax.lax.stop_gradient((cosine, scores.top))
    own, other = (jnp.degrees(angle(jnp.clip(c, -1, 1))) for c in (cosine, top))
    return loss, {
        "class_accuracy": _mean((cosine >= top).astype(loss.dtype), labelled),
        "class_angle": _mean(own, labelled),
        "other_angle": _mean(other, labelled),
    }
