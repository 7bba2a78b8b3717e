"""The losses of metric learning by name, with the hyper-parameters of the method."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from ssl_jax.core.method import Array, PyTree
from ssl_jax.losses.metric import class_losses, margins
from ssl_jax.losses.metric.lifted_structured import lifted_structured
from ssl_jax.losses.metric.n_pair import n_pair
from ssl_jax.losses.metric.pair import pair, pair_of
from ssl_jax.losses.metric.quadruplet import quadruplet
from ssl_jax.losses.metric.supcon import supcon
from ssl_jax.losses.metric.triplet import triplet, triplet_of

BATCH_LOSSES = ("pair", "triplet", "quadruplet", "n_pair", "lifted_structured", "supcon")
CLASS_LOSSES = (
    "center", "sphereface", "cosface", "arcface", "subcenter_arcface", "adacos",
    "adaptive_margin",
)  # fmt: skip
# The margins of the papers, where `method.margin` is None.
MARGINS = {
    "pair": 1.0, "triplet": 0.2, "quadruplet": 1.0, "lifted_structured": 1.0, "cosface": 0.35,
    "arcface": 0.5, "subcenter_arcface": 0.5, "sphereface": 4.0,
}  # fmt: skip
_SCALE = 64.0

Result = tuple[Array, dict[str, Array]]


class ClassState(NamedTuple):
    """What the losses of classes read besides the embeddings.

    Attributes:
      kernel: [c k d].
      bias: [c] of a linear classifier, or None.
      buffers: of the method.
      num_classes: rows of `kernel` that are classes.
    """

    kernel: Array
    bias: Array | None
    buffers: PyTree
    num_classes: int


def margin_of(hyper: Any) -> float:
    """m of the loss."""
    return MARGINS[hyper.loss] if hyper.margin is None else hyper.margin


def loss_of_batch(hyper: Any, z: Array, label: Array) -> Result:
    """The loss of embeddings [n d] and their labels int32 [n], -1 for none."""
    return _batch_loss(hyper)(z, label)


def _batch_loss(hyper: Any) -> Callable[[Array, Array], Result]:
    name = hyper.loss
    if name == "supcon":
        return functools.partial(
            supcon, temperature=hyper.temperature, reduction=hyper.reduction or "mean"
        )
    if name == "n_pair":
        normalize = bool(hyper.l2_normalize)
        return functools.partial(n_pair, l2_normalize=normalize, l2_weight=hyper.l2_weight)
    options = _distance_options(hyper)
    mining = dict(mining=hyper.mining, mining_margin=hyper.mining_margin)
    if name == "triplet":
        return functools.partial(triplet, soft_margin=hyper.soft_margin, **mining, **options)
    if name == "quadruplet":
        second = hyper.second_margin
        return functools.partial(quadruplet, second_margin=second, **mining, **options)
    if name == "lifted_structured":
        return functools.partial(lifted_structured, **options)
    return functools.partial(pair, power=hyper.power, **options)


def _distance_options(hyper: Any) -> dict[str, Any]:
    default = "squared" if hyper.loss == "quadruplet" else "euclidean"
    reduction = "mean" if hyper.loss == "lifted_structured" else "mean_nonzero"
    return dict(
        margin=margin_of(hyper),
        distance=hyper.distance or default,
        l2_normalize=hyper.l2_normalize is not False,
        reduction=hyper.reduction or reduction,
    )


def loss_of_groups(hyper: Any, z: Array, label: Array, size: int) -> Result:
    """The loss of embeddings [n d] whose rows are pairs, or anchors, positives and negatives.

    Args:
      hyper: the method's.
      z: [n d].
      label: int32 [n]; the two of a positive pair are equal.
      size: 2 or 3 rows that belong together.
    """
    members = z.reshape(-1, size, z.shape[-1])
    if size == 3:
        options = dict(_distance_options(hyper), soft_margin=hyper.soft_margin)
        return triplet_of(members[:, 0], members[:, 1], members[:, 2], **options)
    pairs = label.reshape(-1, 2)
    same = pairs[:, 0] == pairs[:, 1]
    options = dict(_distance_options(hyper), power=hyper.power)
    return pair_of(members[:, 0], members[:, 1], same, **options)


def loss_of_classes(
    hyper: Any, z: Array, label: Array, state: ClassState, step: Array
) -> tuple[Array, dict[str, Array], PyTree]:
    """The loss of embeddings [n d] and classes, its metrics, and the buffers that changed."""
    name, buffers = hyper.loss, state.buffers
    count = dict(num_classes=state.num_classes)
    if name == "center":
        loss, metrics = class_losses.plain_softmax(z, label, state.kernel, state.bias, **count)
        distance = class_losses.center(z, label, buffers["centers"])
        centers = class_losses.update_centers(buffers["centers"], z, label, rate=hyper.center_rate)
        metrics["center_loss"] = distance
        return loss + hyper.center_weight * distance, metrics, {"centers": centers}
    if name == "adacos":
        scale = buffers["scale"]
        loss, metrics, scale = class_losses.adacos(
            z, label, state.kernel, scale=scale, dynamic=hyper.dynamic_scale, **count
        )
        return loss, metrics, {"scale": scale}
    if name == "sphereface":
        weight = margins.annealing(step) if hyper.annealing else 0.0
        return *class_losses.sphereface(
            z, label, state.kernel, margin=int(margin_of(hyper)), annealing=weight, **count
        ), {}
    scale = _SCALE if hyper.scale is None else hyper.scale
    if name == "cosface":
        return *class_losses.cosface(
            z, label, state.kernel, scale=scale, margin=margin_of(hyper), **count
        ), {}
    if name == "adaptive_margin":
        margin = margins.from_counts(
            buffers["class_counts"],
            power=hyper.margin_power,
            smallest=hyper.smallest_margin,
            largest=hyper.largest_margin,
        )
    else:
        margin = margin_of(hyper)
    through = hyper.straight_through and name == "arcface"
    return *class_losses.arcface(
        z, label, state.kernel, scale=scale, margin=margin, straight_through=through, **count
    ), {}
