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
      section: the config keys of the group.
      learning_rate: step of the run -> learning rate, before layer-wise decay.
      weight_decay: factor of the weights, or step of the run -> factor.
      frozen_steps: number of steps at the start of the run without updates of the group.
      has_own_clip: whether the group's gradients are clipped separately from other groups.
    """

    section: GroupSection
    learning_rate: Schedule
    weight_decay: float | Schedule
    frozen_steps: int
    has_own_clip: bool = False


@dataclasses.dataclass(frozen=True)
class Groups:
    """The optimizers of all parameters.

    Attributes:
      default: for parameters in no group of `named`.
      named: by name of the group, from the entries of `optimizer.groups`.
      layer_decay: learning rate of a layer divided by that of the next layer; None: no layer-wise
        decay.
      polyak: decay of the average of all parameters; 0: no average.
    """

    default: Group
    named: Mapping[str, Group]
    layer_decay: float | None
    polyak: float

    def group(self, name: str) -> Group:
        """The optimizer of the method's parameter group `name`."""
        return self.named.get(name, self.default)

    def rates(self, step: int) -> dict[str, float]:
        """The learning rates and weight decays of the update at `step`, for logging.

        "learning_rate" is that of the parameters in no named group, "learning_rate/NAME" that of a
        named group; it is 0 while the group is frozen. "weight_decay" and "weight_decay/NAME" are
        included if the weight decay has a schedule.
        """
        rates = {}
        for name, group in {"": self.default, **self.named}.items():
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
      total_steps: length of the run, steps.
      steps_per_epoch: steps in an epoch.

    Raises:
      UserError: an unknown key or a bad value.
    """
    run = dict(batch_size=batch_size, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    section = fields.read(OptimizerSection, config, "optimizer")
    named = {}
    for name, overrides in section.groups.items():
        if name == LAYERWISE:
            continue
        group_section = read_group(config, name, overrides)
        has_own_clip = "clip" in overrides
        if has_own_clip and group_section.clip.norm and group_section.clip.per == "all":
            raise UserError(
                f"optimizer.groups.{name}.clip.per is 'all', which concerns all groups together; "
                "use 'group' or 'tensor'"
            )
        named[name] = _group(group_section, has_own_clip, **run)
    layerwise = section.groups.get(LAYERWISE)
    if layerwise is not None:
        layerwise = fields.read(Layerwise, layerwise, f"optimizer.groups.{LAYERWISE}").decay
    return Groups(_group(section, False, **run), named, layerwise, section.polyak)


def _group(section: GroupSection, has_own_clip: bool, **run: int) -> Group:
    weight_decay = section.weight_decay
    if section.weight_decay_end is not None:
        weight_decay = cosine_between(weight_decay, section.weight_decay_end, run["total_steps"])
    frozen_steps = section.frozen_steps
    if frozen_steps is None:
        frozen_steps = round(section.frozen_epochs * run["steps_per_epoch"])
    frozen_steps = min(frozen_steps, run["total_steps"])  # it is compared with an int32
    schedule = make_schedule(section, **run)
    return Group(section, schedule, weight_decay, frozen_steps, has_own_clip)


def schedule_notes(groups: Groups, *, total_steps: int, steps_per_epoch: int) -> list[str]:
    """Warnings about the optimizers of the groups for a run of this length, one line each."""
    shared = _notes(groups.default, total_steps, steps_per_epoch)
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
