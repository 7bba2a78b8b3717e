"""Reads the parameter groups of the config's optimizer section."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ssl_jax.config import fields
from ssl_jax.core.errors import UserError
from ssl_jax.optim.schedules import Schedule, cosine_between, make_schedule, warmup_length
from ssl_jax.optim.section import (
    LAYERWISE,
    GroupSection,
    Layerwise,
    OptimizerSection,
    read_group,
)


@dataclasses.dataclass(frozen=True)
class Group:
    """The optimizer of one parameter group.

    Attributes:
      section: its keys.
      learning_rate: step of the run -> learning rate; layer-wise decay comes on top.
      weight_decay: factor of the weights, or step of the run -> factor.
      frozen_steps: updates at the start of the run that leave the group as it is.
      clips_alone: whether its gradients are clipped apart from those of other groups.
    """

    section: GroupSection
    learning_rate: Schedule
    weight_decay: float | Schedule
    frozen_steps: int
    clips_alone: bool = False


@dataclasses.dataclass(frozen=True)
class Groups:
    """The optimizers of all parameters.

    Attributes:
      others: of parameters in no group of `named`.
      named: by the group's name, as entries of `optimizer.groups`.
      layer_decay: factor of the rates from a layer to the one before it; None: one rate for all.
      polyak: decay of the average of all parameters, 0 for none.
    """

    others: Group
    named: Mapping[str, Group]
    layer_decay: float | None
    polyak: float

    def of(self, name: str) -> Group:
        """The optimizer of the parameters that the method puts into the group `name`."""
        return self.named.get(name, self.others)

    def rates(self, step: int) -> dict[str, float]:
        """The rates of the update at `step`, to log.

        "learning_rate" is that of the parameters in no named group, "learning_rate/NAME" that of a
        named one; 0 while it is frozen. "weight_decay" likewise, where it changes over the run.
        """
        rates = {}
        for name, group in {"": self.others, **self.named}.items():
            suffix = f"/{name}" if name else ""
            is_frozen = step < group.frozen_steps
            rates[f"learning_rate{suffix}"] = 0.0 if is_frozen else float(group.learning_rate(step))
            if callable(group.weight_decay):
                rates[f"weight_decay{suffix}"] = float(group.weight_decay(step))
        return rates


def read_groups(
    config: Mapping[str, Any], *, batch_size: int, total_steps: int, steps_per_epoch: int
) -> Groups:
    """Reads the config's optimizer section.

    Args:
      config: the section, see `ssl_jax.optim.section.OptimizerSection`.
      batch_size: global batch, examples.
      total_steps: length of the run.
      steps_per_epoch: of it.

    Raises:
      UserError: an unknown key or a bad value.
    """
    run = dict(batch_size=batch_size, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    section = fields.read(OptimizerSection, config, "optimizer")
    named = {}
    for name, overrides in section.groups.items():
        if name == LAYERWISE:
            continue
        of_group = read_group(config, name, overrides)
        clips_alone = "clip" in overrides
        if clips_alone and of_group.clip.norm and of_group.clip.per == "all":
            raise UserError(
                f"optimizer.groups.{name}.clip.per is 'all', which concerns all groups together; "
                "use 'group' or 'tensor'"
            )
        named[name] = _group(of_group, clips_alone, **run)
    layerwise = section.groups.get(LAYERWISE)
    if layerwise is not None:
        layerwise = fields.read(Layerwise, layerwise, f"optimizer.groups.{LAYERWISE}").decay
    return Groups(_group(section, False, **run), named, layerwise, section.polyak)


def _group(section: GroupSection, clips_alone: bool, **run: int) -> Group:
    weight_decay = section.weight_decay
    if section.weight_decay_end is not None:
        weight_decay = cosine_between(weight_decay, section.weight_decay_end, run["total_steps"])
    frozen_steps = section.frozen_steps
    if frozen_steps is None:
        frozen_steps = round(section.frozen_epochs * run["steps_per_epoch"])
    schedule = make_schedule(section, **run)
    return Group(section, schedule, weight_decay, frozen_steps, clips_alone)


def schedule_notes(groups: Groups, *, total_steps: int, steps_per_epoch: int) -> list[str]:
    """Warnings about the optimizer of the groups in a run of this length, a line each."""
    shared = _notes(groups.others, total_steps, steps_per_epoch)
    return shared + [
        f"optimizer.groups.{name}: {note}"
        for name, group in groups.named.items()
        for note in _notes(group, total_steps, steps_per_epoch)
        if note not in shared
    ]


def _notes(group: Group, total_steps: int, steps_per_epoch: int) -> list[str]:
    notes = []
    warmup = warmup_length(group.section, steps_per_epoch)
    if warmup > total_steps:
        notes.append(
            f"the warm-up of {warmup:,} steps is longer than the run and was cut to its "
            f"{total_steps:,}; set optimizer.warmup_epochs or warmup_steps lower"
        )
    if group.section.schedule == "step" and not group.section.milestones:
        notes.append("schedule 'step' has no optimizer.milestones: the learning rate is constant")
    if group.frozen_steps >= total_steps:
        notes.append("the parameters are frozen for the whole run")
    return notes
