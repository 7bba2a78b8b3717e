"""Declares the keys of the config section `optimizer` and of its parameter groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from ssl_jax.config import fields
from ssl_jax.config.fields import (
    below_one,
    each,
    fraction,
    not_negative,
    open_fraction,
    positive,
    positive_fraction,
    regex,
)
from ssl_jax.optim.clip import Scope
from ssl_jax.optim.lars import MomentumOrder
from ssl_jax.optim.masks import DEFAULT_EXCLUDE

Scaling = Literal["linear", "sqrt", "none"]

# The entry of `groups` for layer-wise decay.
LAYERWISE = "layerwise"


@dataclasses.dataclass(frozen=True)
class Clip:
    """Gradient clipping, see `ssl_jax.optim.clip`."""

    norm: Annotated[
        float, not_negative, "Largest norm of gradients; longer ones are scaled to it. 0: off."
    ] = 0.0
    per: Annotated[
        Scope,
        "What a norm is taken over: all parameters, each parameter group, or each tensor (DINO).",
    ] = "all"


@dataclasses.dataclass(frozen=True)
class GroupSection:
    """The optimizer of one parameter group."""

    name: Annotated[
        Literal["lars", "adamw", "sgd", "lamb", "adafactor"],
        "Update rule; adafactor is T5's, without momentum.",
    ] = "lars"
    base_lr: Annotated[float, not_negative, "Peak learning rate before lr_scaling."] = 0.3
    lr_scaling: Annotated[
        Scaling,
        "linear: base_lr * batch_size / 256; sqrt: base_lr * sqrt(batch_size); none: base_lr.",
    ] = "linear"
    lr_factor: Annotated[float, not_negative, "Multiplies the learning rate at every step."] = 1.0
    schedule: Annotated[
        Literal["cosine", "constant", "step", "linear", "linear_unshifted", "inverse_sqrt"],
        "The learning rate after the warm-up; linear_unshifted is BERT's, inverse_sqrt T5's.",
    ] = "cosine"
    warmup_epochs: Annotated[float, not_negative, "Length of the linear warm-up, epochs."] = 10.0
    warmup_steps: Annotated[int | None, not_negative, "Overrides warmup_epochs."] = None
    warmup_start: Annotated[
        float,
        fraction,
        "Learning rate at the start of the warm-up, as a fraction of the peak (SwAV: 1/16).",
    ] = 0.0
    final_lr_factor: Annotated[
        float, not_negative, "Learning rate at the end of the run divided by the peak."
    ] = 0.0
    decay_until: Annotated[
        float,
        positive_fraction,
        "For schedules cosine and linear: fraction of the run after which the learning rate stays "
        "at its last value (GPT-3: 0.87).",
    ] = 1.0
    milestones: Annotated[
        tuple[float, ...],
        each(open_fraction),
        "For schedule step: fractions of the run at which the rate is multiplied by decay_factor.",
    ] = ()
    decay_factor: Annotated[
        float, positive, "For schedule step: factor of the rate at each milestone."
    ] = 0.1
    weight_decay: Annotated[float, not_negative, "Weight decay (at the first step)."] = 1e-6
    weight_decay_end: Annotated[
        float | None,
        not_negative,
        "Weight decay at the end of the run, along half a cosine from weight_decay (DINO: 0.04 to "
        "0.4); None: constant.",
    ] = None
    momentum: Annotated[float, below_one, "Momentum of lars and sgd."] = 0.9
    nesterov: Annotated[bool, "Nesterov's momentum."] = False
    b1: Annotated[float, below_one, "For adamw and lamb: decay of the average of gradients."] = 0.9
    b2: Annotated[
        float, below_one, "For adamw and lamb: decay of the average of squared gradients."
    ] = 0.999
    eps: Annotated[float, positive, "For adamw and lamb: added to the square root."] = 1e-8
    bias_correction: Annotated[bool, "For adamw and lamb; False in BERT's released code."] = True
    trust_coefficient: Annotated[float, positive, "Trust coefficient of lars."] = 1e-3
    momentum_order: Annotated[
        MomentumOrder,
        "For lars: learning rate inside the momentum (SimCLR) or outside (BYOL).",
    ] = "lr_inside"
    clip: Annotated[Clip, "Gradient clipping."] = Clip()
    exclude: Annotated[
        str,
        regex,
        "Regex of the paths of parameters without weight decay and layer-wise adaptation.",
    ] = DEFAULT_EXCLUDE
    frozen_epochs: Annotated[
        float,
        not_negative,
        "Epochs at the start of the run without updates of parameters and optimizer state.",
    ] = 0.0
    frozen_steps: Annotated[int | None, not_negative, "Overrides frozen_epochs."] = None


@dataclasses.dataclass(frozen=True)
class OptimizerSection(GroupSection):
    """The whole section: the optimizer of parameters in no named group, and the named groups."""

    groups: Annotated[
        Mapping[str, Mapping[str, Any]],
        "Overrides of the keys above, by name of a group; layerwise=dict(decay=0.65) multiplies "
        "the rates of a net's layers by powers of 0.65.",
    ] = dataclasses.field(default_factory=dict)
    polyak: Annotated[
        float, below_one, "Decay of an average of all parameters, for evaluation; 0: no average."
    ] = 0.0


@dataclasses.dataclass(frozen=True)
class Layerwise:
    """Layer-wise rate decay: `optimizer.groups.layerwise`."""

    decay: Annotated[
        float, positive_fraction, "Rate of a layer divided by that of the next layer, e.g. 0.75."
    ]


def groups() -> fields.Section:
    """Declares `optimizer.groups`: for each name of a group, any keys of `GroupSection`."""
    layerwise = fields.Key(Layerwise, fields.LEFT_OUT, "Layer-wise rate decay.")
    return fields.Section({LAYERWISE: layerwise}, others=fields.section(GroupSection).partial())


def read_group(config: Mapping[str, Any], name: str, overrides: Mapping[str, Any]) -> GroupSection:
    """The section of one group: the optimizer section with the group's overrides applied.

    Args:
      config: the optimizer section.
      name: name of the group.
      overrides: the group's entry in `groups`.

    Raises:
      UserError: an unknown key or a bad value.
    """
    where = f"optimizer.groups.{name}"
    shared = {key: config[key] for key in config if key in fields.section(GroupSection).keys}
    merged = {**shared, **overrides}
    if hasattr(overrides.get("clip"), "items"):
        merged["clip"] = {**shared.get("clip", {}), **overrides["clip"]}
    return fields.read(GroupSection, merged, where)
