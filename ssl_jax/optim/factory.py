"""Builds the optimizer from the config's optimizer section."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import optax

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.tree_paths import path_string
from ssl_jax.optim.adafactor import scale_by_adafactor
from ssl_jax.optim.adam import scale_by_adam
from ssl_jax.optim.by_step import add_decayed_weights, count_steps, scale_by_learning_rate
from ssl_jax.optim.clip import clip_by_norm
from ssl_jax.optim.constrain import constrain as constrain_updates
from ssl_jax.optim.ema import track_ema, track_polyak
from ssl_jax.optim.freeze import freeze_until, zero_before
from ssl_jax.optim.groups import Group, Groups, read_groups
from ssl_jax.optim.lars import lars
from ssl_jax.optim.layerwise import scale_by_layer
from ssl_jax.optim.masks import path_mask
from ssl_jax.optim.rows import RowRatesOf, add_row_decay, scale_rows
from ssl_jax.optim.schedules import Schedule
from ssl_jax.optim.trust import scale_by_trust_ratio

PyTree = Any
# Paths of the averages of the parameters in the optimizer state.
AVERAGE_PATHS = {"ema": "inner/ema/ema", "polyak": "inner/polyak/average"}
_OTHERS = "_others"  # label of the parameters in no group of the config


def make_optimizer(
    config: Mapping[str, Any],
    *,
    batch_size: int,
    total_steps: int,
    steps_per_epoch: int,
    ema_decay: float | Schedule | None = None,
    ema_filter: Callable[[str], bool] | None = None,
    param_group: Callable[[str], str] | None = None,
    constrain: Callable[[PyTree], PyTree] | None = None,
    empty_groups: Collection[str] = (),
    row_rates: RowRatesOf | None = None,
) -> optax.GradientTransformation:
    """Makes the transform of gradients to updates that the config describes.

    It applies, in this order: clipping, the optimizer of each parameter group, the learning rates
    of rows, layer-wise decay, the constraint, and the averages of the parameters.

    All schedules are functions of the step of the run, which is counted once, outside the groups.
    While a group is frozen, its parameters and its optimizer state do not change, and clip norms do
    not include its gradients.

    Args:
      config: the config's optimizer section, see `ssl_jax.optim.section.OptimizerSection`.
      batch_size: global batch, examples; scales the learning rate.
      total_steps: length of the run, steps.
      steps_per_epoch: steps in an epoch.
      ema_decay: decay of the parameters' moving average, or its schedule; None: no average.
      ema_filter: path of a parameter -> whether it has an average; default: all have one.
      param_group: path of a parameter ("encoder/stem/conv/kernel") -> its group. The optimizer of
        groups without an entry in `config.groups` is that of the section itself.
      constrain: see `ssl_jax.optim.constrain`; the caller applies it to the initial parameters.
      empty_groups: groups that may have no parameters.
      row_rates: path of a parameter -> the rates of its rows, see `ssl_jax.optim.rows`. The update
        rules lars, lamb and adafactor do not know them.

    Returns:
      The transform. Apply its updates with `optax.apply_updates`. Its `init` raises UserError if a
      group in `config.groups` has no parameters.

    Raises:
      UserError: an unknown key or a bad value.
    """
    groups = read_groups(
        config, batch_size=batch_size, total_steps=total_steps, steps_per_epoch=steps_per_epoch
    )
    group_of = param_group or (lambda path: "default")
    any_frozen = any(group.frozen_steps for group in (groups.default, *groups.named.values()))
    zero_frozen = [zero_before(_first_steps(groups, group_of))] if any_frozen else []

    clips = _clips(groups, group_of)
    transforms = [
        *(zero_frozen if clips else []),
        *clips,
        _optimizers(groups, group_of, empty_groups, row_rates),
    ]
    if row_rates is not None:
        transforms.append(scale_rows(row_rates))
    if groups.layer_decay is not None:
        transforms.append(scale_by_layer(groups.layer_decay, group_of))
    if constrain is not None:
        transforms += [constrain_updates(constrain), *zero_frozen]
    chain = [("rules", optax.chain(*transforms))]
    if ema_decay is not None:
        chain.append(("ema", track_ema(ema_decay, ema_filter)))
    if groups.polyak:
        chain.append(("polyak", track_polyak(groups.polyak)))
    return count_steps(optax.named_chain(*chain))


def _optimizers(
    groups: Groups,
    group_of: Callable[[str], str],
    empty_groups: Collection[str],
    row_rates: RowRatesOf | None,
) -> optax.GradientTransformation:
    default = _optimizer(groups.default, row_rates)
    if not groups.named:
        return default
    named = {name: _optimizer(group, row_rates) for name, group in groups.named.items()}
    labels = _by_path(lambda path: label if (label := group_of(path)) in named else _OTHERS)
    partition = optax.partition({_OTHERS: default, **named}, labels)

    def init(params: PyTree) -> optax.OptState:
        present = set(jax.tree.leaves(_by_path(group_of)(params)))
        for name in named:
            if name not in present and name not in empty_groups:
                raise UserError(
                    f"optimizer.groups.{name}: no parameter is in this group; the method's groups "
                    f"are {', '.join(sorted(present))}.{nearest(name, present)}"
                )
        return partition.init(params)

    return optax.GradientTransformationExtraArgs(init, partition.update)


def _optimizer(group: Group, row_rates: RowRatesOf | None) -> optax.GradientTransformation:
    rule = _update_rule(group, row_rates)
    return freeze_until(rule, group.frozen_steps) if group.frozen_steps else rule


def _update_rule(group: Group, row_rates: RowRatesOf | None) -> optax.GradientTransformation:
    """The update rule of a group. `exclude` excludes parameters from weight decay and, in LARS and
    LAMB, from layer-wise adaptation."""
    section, mask = group.section, path_mask(group.section.exclude)
    if section.name == "lars":
        return lars(
            group.learning_rate,
            weight_decay=group.weight_decay,
            momentum=section.momentum,
            trust_coefficient=section.trust_coefficient,
            nesterov=section.nesterov,
            mask=mask,
            momentum_order=section.momentum_order,
        )
    decay = add_decayed_weights(group.weight_decay, mask)
    if row_rates is not None:
        decay = optax.chain(decay, add_row_decay(row_rates, mask))
    rate = scale_by_learning_rate(group.learning_rate)
    if section.name == "sgd":  # decay is added to the gradient; the rate is outside the momentum
        return optax.chain(decay, optax.trace(section.momentum, section.nesterov), rate)
    if section.name == "adafactor":
        return optax.chain(scale_by_adafactor(), decay, rate)
    adam = scale_by_adam(
        section.b1,
        section.b2,
        section.eps,
        nesterov=section.nesterov,
        bias_correction=section.bias_correction,
    )
    # optax.lamb has no mask for the adaptation.
    adapt = [optax.masked(scale_by_trust_ratio(), mask)] if section.name == "lamb" else []
    return optax.chain(adam, decay, *adapt, rate)


def _clips(groups: Groups, group_of: Callable[[str], str]) -> list[optax.GradientTransformation]:
    """The clipping shared by all groups, and that of groups with their own `clip` section."""
    own_clips = {name for name, group in groups.named.items() if group.has_own_clip}
    clips = []
    shared = groups.default.section.clip
    if shared.norm:
        clip = clip_by_norm(shared.norm, shared.per, group_of)
        uses_shared = _by_path(lambda path: group_of(path) not in own_clips)
        clips.append(optax.masked(clip, uses_shared) if own_clips else clip)
    for name in sorted(own_clips):
        section = groups.named[name].section.clip
        if section.norm:
            clip = clip_by_norm(section.norm, section.per, group_of)
            clips.append(
                optax.masked(clip, _by_path(lambda path, name=name: group_of(path) == name))
            )
    return clips


def _first_steps(groups: Groups, group_of: Callable[[str], str]) -> Callable[[PyTree], PyTree]:
    """The step at which each array gets its first update."""
    return _by_path(lambda path: groups.group(group_of(path)).frozen_steps)


def _by_path(function: Callable[[str], Any]) -> Callable[[PyTree], PyTree]:
    """Returns a function that replaces each leaf of a tree by `function` of its path."""
    return lambda tree: jax.tree_util.tree_map_with_path(
        lambda path, _: function(path_string(path)), tree
    )
