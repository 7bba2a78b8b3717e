"""Checks that a loss of metric learning, its margin and its data fit each other."""

from __future__ import annotations

import math
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec
from ssl_jax.methods.base.metric_losses import BATCH_LOSSES, MARGINS, margin_of

# Loss -> largest margin, and what it is.
_LARGEST = {
    "cosface": (2.0, "a difference of cosines"),
    "arcface": (math.pi / 2, "an angle in radians"),
    "subcenter_arcface": (math.pi / 2, "an angle in radians"),
}
_GROUPS = {2: ("pairs", "pair"), 3: ("triplets", "triplet")}


def check_options(hyper: Any, config: Any, spec: DataSpec, group_size: int) -> None:
    """Checks what does not need the data.

    Args:
      hyper: the method's hyper-parameters.
      config: the whole config.
      spec: of the training data.
      group_size: rows of a batch that belong together.

    Raises:
      UserError: the loss does not fit the data or the sampler, or a margin is out of bounds.
    """
    _check_margins(hyper)
    if group_size > 1:
        kind, loss = _GROUPS[group_size]
        if hyper.loss != loss:
            raise UserError(
                f"method.loss is {hyper.loss!r}, but {config.data.name} has {kind} without class "
                f"labels; use method.loss={loss}"
            )
        return
    if not spec.num_classes:
        raise UserError(
            f"method.loss {hyper.loss!r} needs class labels, and {config.data.name} has none; "
            "choose another data set, or learn from data.name='pairs:FILE' or 'triplets:FILE'"
        )
    if spec.num_classes < 2:
        raise UserError(
            f"{config.data.name} has {spec.num_classes} class; metric learning needs 2 or more"
        )
    if hyper.loss == "adacos" and spec.num_classes < 3:
        raise UserError(f"method.loss 'adacos' needs 3 classes or more; there are only 2 in "
                        f"{config.data.name}; use cosface")  # fmt: skip
    sampler = config.data.sampler
    if hyper.loss in BATCH_LOSSES and sampler.name == "pk":
        if sampler.get("examples_per_class", 4) < 2:
            raise UserError(
                f"data.sampler.examples_per_class is 1, but method.loss {hyper.loss!r} compares "
                "examples of one class; use 2 or more"
            )
        if config.batch_size <= sampler.get("examples_per_class", 4):
            raise UserError(
                f"batch_size {config.batch_size} has one class of data.sampler.examples_per_class "
                f"{sampler.get('examples_per_class', 4)}, but method.loss {hyper.loss!r} compares "
                "classes; use a larger batch"
            )


def _check_margins(hyper: Any) -> None:
    if hyper.margin is not None and hyper.loss not in MARGINS:
        raise UserError(
            f"method.margin is {hyper.margin:g}, but method.loss {hyper.loss!r} has no such "
            f"margin; leave it unset, or use one of {', '.join(MARGINS)}"
        )
    if hyper.loss in _LARGEST:
        largest, what = _LARGEST[hyper.loss]
        if margin_of(hyper) > largest:
            raise UserError(
                f"method.margin is {hyper.margin:g}; of {hyper.loss} it is {what}, use a number "
                f"from 0 to {largest:.4g}"
            )
    if hyper.loss == "sphereface" and margin_of(hyper) not in range(1, 9):
        raise UserError(
            f"method.margin is {hyper.margin:g}; of sphereface it is a whole number from 1 to 8"
        )
    if hyper.smallest_margin > hyper.largest_margin:
        raise UserError(
            f"method.smallest_margin {hyper.smallest_margin:g} is larger than largest_margin "
            f"{hyper.largest_margin:g}; exchange them"
        )
    if hyper.clean_every_epochs and hyper.loss != "subcenter_arcface":
        raise UserError(
            f"method.clean_every_epochs is for subcenter_arcface, not {hyper.loss}; set it to 0"
        )
    if hyper.straight_through and hyper.loss != "arcface":
        raise UserError(
            f"method.straight_through=True is for arcface, not {hyper.loss}; leave it unset"
        )
