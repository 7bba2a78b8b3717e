"""Describes in words what the optimizer does to each parameter group."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ssl_jax.core.tree_paths import by_path
from ssl_jax.optim.groups import Group, Groups
from ssl_jax.optim.layerwise import layer_factors
from ssl_jax.optim.masks import path_mask
from ssl_jax.optim.schedules import warmup_length

PyTree = Any


@dataclasses.dataclass
class _Members:
    """The parameters of one optimizer.

    Attributes:
      names: groups of the method.
      decayed: number of scalars with weight decay.
      excluded: number of scalars without.
      factors: factors of layer-wise decay.
    """

    names: list[str]
    decayed: int
    excluded: int
    factors: list[float]


def describe(
    groups: Groups,
    params: PyTree,
    group_of: Callable[[str], str],
    *,
    batch_size: int,
    total_steps: int,
    steps_per_epoch: int,
) -> list[tuple[str, str]]:
    """Describes the optimizer of each parameter group.

    Args:
      groups: the optimizers of the run.
      params: arrays or `jax.ShapeDtypeStruct`s.
      group_of: path of a parameter -> its group in the method.
      batch_size: global batch, examples.
      total_steps: length of the run, steps.
      steps_per_epoch: steps in an epoch.

    Returns:
      (label, text) lines: for each optimizer its learning rate, and how many parameters it decays,
      adapts and clips.
    """
    run = dict(batch_size=batch_size, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    members_by_name = _members(groups, params, group_of)
    method_groups = {name for members in members_by_name.values() for name in members.names}
    lines: list[tuple[str, str]] = []
    for key, members in members_by_name.items():
        group = groups.named[key] if key else groups.default
        prefix = f"{_join_names(members.names)}: " if len(method_groups) > 1 else ""
        lines.append((
            "" if lines else "optimizer",
            f"{prefix}{group.section.name}, {_rate(group, members, **run)}",
        ))  # fmt: skip
        lines.append(("", _treatment(group, members, total_steps)))
    if groups.layer_decay is not None:
        lines.append(("layer-wise decay", f"a layer's rate is {groups.layer_decay:g} of the next"))
    if groups.polyak:
        lines.append(("Polyak average", f"of all parameters, decay {groups.polyak:g}"))
    return lines


def _members(groups: Groups, params: PyTree, group_of: Callable[[str], str]) -> dict[str, _Members]:
    """The parameters by name of an entry of `groups.named`, "" for all other groups.

    Entries without parameters are left out.
    """
    factors = [1.0] * len(jax.tree.leaves(params))
    if groups.layer_decay is not None:
        factors = jax.tree.leaves(layer_factors(params, groups.layer_decay, group_of))
    members_by_name: dict[str, _Members] = {}
    for (path, leaf), factor in zip(by_path(params).items(), factors, strict=True):
        name = group_of(path)
        key = name if name in groups.named else ""
        members = members_by_name.setdefault(key, _Members([], 0, 0, []))
        if name not in members.names:
            members.names.append(name)
        if path_mask(groups.group(name).section.exclude)({path: leaf})[path]:
            members.decayed += leaf.size
        else:
            members.excluded += leaf.size
        members.factors += np.ravel(factor).tolist()
    return dict(sorted(members_by_name.items()))


def _rate(
    group: Group, members: _Members, *, batch_size: int, total_steps: int, steps_per_epoch: int
) -> str:
    section = group.section
    steps = np.unique(np.linspace(0, total_steps - 1, 1001).round().astype(int))
    peak = max(float(group.learning_rate(int(step))) for step in steps)
    low, high = min(members.factors) * peak, max(members.factors) * peak
    scaling = {
        "linear": f"{section.base_lr:g} x {batch_size}/256",
        "sqrt": f"{section.base_lr:g} x sqrt({batch_size})",
        "none": f"{section.base_lr:g}, not scaled",
    }[section.lr_scaling]
    if section.lr_factor != 1:
        scaling = f"{section.lr_factor:g} x {scaling}"
    peaks = f"{high:.4g}" if low == high else f"{low:.4g} to {high:.4g} by layer"
    text = f"peak {peaks} ({scaling}), {section.schedule}"
    warmup = min(warmup_length(section, steps_per_epoch), total_steps)
    if warmup:
        start = f" from {section.warmup_start * high:.4g}" if section.warmup_start else ""
        text += f" after {warmup:,} steps of warm-up{start}"
    return text


def _treatment(group: Group, members: _Members, total_steps: int) -> str:
    section = group.section
    first, last = section.weight_decay, section.weight_decay_end
    actions = []
    if first or last:
        actions.append(f"decayed by {first:g}" + (f" -> {last:g}" if last is not None else ""))
    if section.name in ("lars", "lamb"):
        trust = f" (trust {section.trust_coefficient:g})" if section.name == "lars" else ""
        actions.append(f"adapted to their norm{trust}")
    if not section.base_lr * section.lr_factor:
        text = f"{members.decayed + members.excluded:,} parameters, never updated"
    elif not actions:
        text = f"{members.decayed + members.excluded:,} parameters, not decayed"
    else:
        text = f"{members.decayed:,} parameters {' and '.join(actions)}"
        if members.excluded:
            text += f", {members.excluded:,} not (exclude={section.exclude!r})"
    clip = section.clip
    if clip.norm:
        scope = "over all" if clip.per == "all" else f"per {clip.per}"
        text += f"; clip {clip.norm:g} {scope}"
    if group.frozen_steps >= total_steps:
        text += "; frozen for the whole run"
    elif group.frozen_steps:
        text += f"; frozen until step {group.frozen_steps:,}"
    return text


def _join_names(names: list[str]) -> str:
    """Joins names; names that differ only in a number become a range: "layer1 to layer12"."""
    parts = []
    for stem, run in itertools.groupby(names, lambda name: re.sub(r"\d+$", "", name)):
        run = sorted(run, key=lambda name: (len(name), name))
        parts += [f"{run[0]} to {run[-1]}"] if len(run) > 2 and stem != run[0] else run
    return ", ".join(parts)
