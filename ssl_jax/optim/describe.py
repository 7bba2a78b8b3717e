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
    """The parameters of one optimizer: the method's groups, scalars, and factors of the rate."""

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
    """(label, text) pairs: for each optimizer its rate, and whom it decays, adapts and clips.

    Args:
      groups: what the config means for the run.
      params: arrays or `jax.ShapeDtypeStruct`s.
      group_of: the method's group of the parameter at a path.
      batch_size: global batch, examples.
      total_steps: length of the run.
      steps_per_epoch: of it.
    """
    run = dict(batch_size=batch_size, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    members = _members(groups, params, group_of)
    method_groups = {name for part in members.values() for name in part.names}
    lines: list[tuple[str, str]] = []
    for key, part in members.items():
        group = groups.named[key] if key else groups.others
        whose = f"{_shorten(part.names)}: " if len(method_groups) > 1 else ""
        lines.append((
            "" if lines else "optimizer",
            f"{whose}{group.section.name}, {_rate(group, part, **run)}",
        ))  # fmt: skip
        lines.append(("", _treatment(group, part, total_steps)))
    if groups.layer_decay is not None:
        lines.append(("layer-wise decay", f"a layer's rate is {groups.layer_decay:g} of the next"))
    if groups.polyak:
        lines.append(("Polyak average", f"of all parameters, decay {groups.polyak:g}"))
    return lines


def _members(groups: Groups, params: PyTree, group_of: Callable[[str], str]) -> dict[str, _Members]:
    """By the name of an entry of `groups.named`, "" for the others; without empty ones."""
    factors = [1.0] * len(jax.tree.leaves(params))
    if groups.layer_decay is not None:
        factors = jax.tree.leaves(layer_factors(params, groups.layer_decay, group_of))
    members: dict[str, _Members] = {}
    for (path, leaf), factor in zip(by_path(params).items(), factors, strict=True):
        name = group_of(path)
        key = name if name in groups.named else ""
        part = members.setdefault(key, _Members([], 0, 0, []))
        if name not in part.names:
            part.names.append(name)
        if path_mask(groups.of(name).section.exclude)({path: leaf})[path]:
            part.decayed += leaf.size
        else:
            part.excluded += leaf.size
        part.factors += np.ravel(factor).tolist()
    return dict(sorted(members.items()))


def _rate(
    group: Group, part: _Members, *, batch_size: int, total_steps: int, steps_per_epoch: int
) -> str:
    section = group.section
    steps = np.unique(np.linspace(0, total_steps - 1, 1001).round().astype(int))
    peak = max(float(group.learning_rate(int(step))) for step in steps)
    low, high = min(part.factors) * peak, max(part.factors) * peak
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


def _treatment(group: Group, part: _Members, total_steps: int) -> str:
    section = group.section
    first, last = section.weight_decay, section.weight_decay_end
    verbs = []
    if first or last:
        verbs.append(f"decayed by {first:g}" + (f" -> {last:g}" if last is not None else ""))
    if section.name in ("lars", "lamb"):
        trust = f" (trust {section.trust_coefficient:g})" if section.name == "lars" else ""
        verbs.append(f"adapted to their norm{trust}")
    if not section.base_lr * section.lr_factor:
        text = f"{part.decayed + part.excluded:,} parameters, never updated"
    elif not verbs:
        text = f"{part.decayed + part.excluded:,} parameters, not decayed"
    else:
        text = f"{part.decayed:,} parameters {' and '.join(verbs)}"
        if part.excluded:
            text += f", {part.excluded:,} not (exclude={section.exclude!r})"
    clip = section.clip
    if clip.norm:
        scope = "over all" if clip.per == "all" else f"per {clip.per}"
        text += f"; clip {clip.norm:g} {scope}"
    if group.frozen_steps >= total_steps:
        text += "; frozen for the whole run"
    elif group.frozen_steps:
        text += f"; frozen until step {group.frozen_steps:,}"
    return text


def _shorten(names: list[str]) -> str:
    """Names in a row, those that differ by a number alone as a range: "layer1 to layer12"."""
    parts = []
    for stem, run in itertools.groupby(names, lambda name: re.sub(r"\d+$", "", name)):
        run = sorted(run, key=lambda name: (len(name), name))
        parts += [f"{run[0]} to {run[-1]}"] if len(run) > 2 and stem != run[0] else run
    return ", ".join(parts)
