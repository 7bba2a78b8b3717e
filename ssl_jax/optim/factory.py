"""The optimizer that a config's optimizer section means."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.tree_paths import STACKED, path_string
from ssl_jax.optim.adam import scale_by_adam
from ssl_jax.optim.ema import track_ema
from ssl_jax.optim.lars import lars
from ssl_jax.optim.masks import path_mask
from ssl_jax.optim.schedules import Schedule, make_schedule
from ssl_jax.optim.trust import scale_by_trust_ratio

PyTree = Any
OPTIMIZERS = ("lars", "adamw", "sgd", "lamb")
# Keys that concern all parameters at once, so no group may override them.
GLOBAL_KEYS = ("clip_norm", "groups")
# An entry of `groups` that is about all layers: the net says how many there are.
LAYERWISE = "layerwise"
_LAYER = re.compile(r"layer([1-9]\d*)")
_OTHERS = "_others"  # label of the parameters that no entry of `groups` concerns


def make_optimizer(
    config: Mapping[str, Any],
    *,
    batch_size: int,
    total_steps: int,
    steps_per_epoch: int,
    ema_decay: float | Schedule | None = None,
    ema_filter: Callable[[str], bool] | None = None,
    param_group: Callable[[str], str] | None = None,
) -> optax.GradientTransformation:
    """Clipping, then one optimizer for each parameter group, then the moving average.

    Args:
      config: the config's optimizer section. `groups` maps a group's name to overrides of the
        section's other keys, e.g. `{"predictor": {"schedule": "constant"}}`. Its entry
        `{"layerwise": {"decay": d}}` multiplies the rates of a net of n layers, whatever else sets
        them: those of group "embed" by d^(n + 1), of "layer1" by d^n, and so on to d for the last
        layer; what follows it keeps its rate.
      batch_size: global batch, images; with the next two, what `make_schedule` needs.
      total_steps: length of the run.
      steps_per_epoch: of it.
      ema_decay: decay of the parameters' moving average or its schedule; None for no average.
      ema_filter: whether the parameter at a path has an average; default all.
      param_group: the group of the parameter at a path ("encoder/stem/conv/kernel"). Groups
        that `config.groups` does not name follow the section itself.

    Returns:
      The transform. Its `init` raises UserError if `config.groups` names a group no parameter is
      in. Updates are to be applied with `optax.apply_updates`.

    Raises:
      UserError: an unknown optimizer, schedule or key, or a value out of its range.
    """
    lengths = {
        "batch_size": batch_size,
        "total_steps": total_steps,
        "steps_per_epoch": steps_per_epoch,
    }
    parts = []
    clip_norm = config.get("clip_norm") or 0.0
    if clip_norm < 0:
        raise UserError(f"optimizer.clip_norm is {clip_norm}; use a positive norm, or 0 for none")
    if clip_norm:
        parts.append(optax.clip_by_global_norm(clip_norm))

    groups = dict(config.get("groups") or {})
    layerwise = groups.pop(LAYERWISE, None)
    param_group = param_group or (lambda path: "default")
    default = _one_group(config, make_schedule(config, **lengths))
    if groups:
        transforms = {_OTHERS: default}
        for name, overrides in groups.items():
            merged = _override(config, name, overrides)
            transforms[name] = _one_group(merged, make_schedule(merged, **lengths))
        parts.append(_by_group(transforms, param_group))
    else:
        parts.append(default)
    if layerwise is not None:
        parts.append(_by_layer(_decay(layerwise), param_group))

    if ema_decay is not None:
        parts.append(track_ema(ema_decay, ema_filter))
    return optax.chain(*parts)


def _one_group(config: Mapping[str, Any], lr: Schedule) -> optax.GradientTransformation:
    """One of OPTIMIZERS. `exclude` keeps parameters from weight decay and, in LARS and LAMB, from
    layer-wise adaptation."""
    name, weight_decay = config["name"], config["weight_decay"]
    mask = path_mask(config["exclude"] or "")
    if name == "lars":
        return lars(
            lr,
            weight_decay=weight_decay,
            momentum=config["momentum"],
            trust_coefficient=config["trust_coefficient"],
            nesterov=config["nesterov"],
            mask=mask,
            momentum_order=config["momentum_order"],
        )
    if name == "sgd":  # decay in the gradient and lr outside the momentum, as everywhere
        return optax.chain(
            optax.add_decayed_weights(weight_decay, mask),
            optax.trace(config["momentum"], config["nesterov"]),
            optax.scale_by_learning_rate(lr),
        )
    if name in ("adamw", "lamb"):
        correction = config.get("bias_correction")
        adam = scale_by_adam(
            config["b1"],
            config["b2"],
            config["eps"],
            nesterov=config["nesterov"],
            bias_correction=correction is None or correction,  # older runs do not say
        )
        # optax.lamb would adapt the excluded parameters too.
        adapt = [optax.masked(scale_by_trust_ratio(), mask)] if name == "lamb" else []
        return optax.chain(
            adam,
            optax.add_decayed_weights(weight_decay, mask),
            *adapt,
            optax.scale_by_learning_rate(lr),
        )
    raise UserError(
        f"unknown optimizer {name!r}; known are {OPTIMIZERS}.{nearest(name, OPTIMIZERS)}"
    )


def _override(
    config: Mapping[str, Any], group: str, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """The section with one group's overrides in it."""
    known = [key for key in config if key not in GLOBAL_KEYS]
    for key in overrides:
        if key in GLOBAL_KEYS:
            raise UserError(f"optimizer.groups.{group}.{key} cannot be set for one group")
        if key not in known:
            raise UserError(
                f"unknown config key optimizer.groups.{group}.{key}; known keys: "
                f"{', '.join(sorted(known))}.{nearest(key, known)}"
            )
    return {**config, **overrides}


def _by_group(
    transforms: Mapping[str, optax.GradientTransformation], param_group: Callable[[str], str]
) -> optax.GradientTransformation:
    """`optax.partition` by the groups' names; parameters of unnamed groups go to `_OTHERS`."""

    def groups(tree: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: param_group(path_string(path)), tree
        )

    def labels(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda name: name if name in transforms else _OTHERS, groups(tree))

    partition = optax.partition(transforms, labels)

    def init(params: PyTree) -> optax.OptState:
        present = set(jax.tree.leaves(groups(params)))
        for name in transforms:
            if name != _OTHERS and name not in present:
                raise UserError(
                    f"optimizer.groups.{name}: no parameter is in this group; the method's groups "
                    f"are {', '.join(sorted(present))}.{nearest(name, present)}"
                )
        return partition.init(params)

    return optax.GradientTransformationExtraArgs(init, partition.update)


def _decay(layerwise: Mapping[str, Any]) -> float:
    where = f"optimizer.groups.{LAYERWISE}"
    for key in layerwise:
        if key != "decay":
            raise UserError(
                f"unknown config key {where}.{key}; known keys: decay.{nearest(key, ['decay'])}"
            )
    if "decay" not in layerwise:
        raise UserError(f"{where} says no decay; set {where}.decay, e.g. 0.75")
    decay = layerwise["decay"]
    if not 0 < decay <= 1:
        raise UserError(f"{where}.decay is {decay}; use a number above 0, at most 1")
    return decay


def _by_layer(decay: float, param_group: Callable[[str], str]) -> optax.GradientTransformation:
    """Multiplies updates, and so the rates of any optimizer, by powers of `decay`."""

    def factors(tree: PyTree) -> PyTree:
        names = jax.tree_util.tree_map_with_path(
            lambda path, _: param_group(path_string(path)), tree
        )
        present = set(jax.tree.leaves(names))
        layers = {int(found[1]) for found in map(_LAYER.fullmatch, present) if found}
        if layers != set(range(1, len(layers) + 1)) or not layers:
            advice = "; set model.scan_layers=False, as stacked layers share one rate"
            raise UserError(
                f"optimizer.groups.{LAYERWISE} needs groups layer1, layer2 and so on, and the "
                f"method's are {', '.join(sorted(present))}{advice if STACKED in present else ''}"
            )
        powers = {f"layer{i}": len(layers) + 1 - i for i in layers} | {"embed": len(layers) + 1}
        return jax.tree.map(lambda name: decay ** powers.get(name, 0), names)

    def init(params: PyTree) -> optax.OptState:
        factors(params)
        return optax.EmptyState()

    def update(updates: PyTree, state: optax.OptState, params: PyTree | None = None):
        del params
        return jax.tree.map(lambda u, factor: u * factor, updates, factors(updates)), state

    return optax.GradientTransformation(init, update)
