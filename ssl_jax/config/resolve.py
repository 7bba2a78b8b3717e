"""Checks a config and settles the keys that depend on others."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from ssl_jax.config import from_pretrained
from ssl_jax.config.base import base_config
from ssl_jax.core.errors import UserError, nearest

DTYPES = ("float32", "bfloat16")
# Sections whose keys depend on a name in them; their readers check the keys.
OPEN_SECTIONS = (
    "method",
    "views",
    "optimizer.groups",
    "data.options",
    "data.sampler",
    "data.host_crops",
)
NOT_NEGATIVE = (
    "optimizer.base_lr", "optimizer.weight_decay", "eval.every_epochs",
    "eval.collapse_every_steps", "checkpoint.every_epochs",
)  # fmt: skip


def resolve(config: ConfigDict, overrides: dict[str, Any] | None = None) -> ConfigDict:
    """Checks the shared keys and settles what depends on others. Returns a locked copy.

    These are `epochs` and `steps`, and what is left to `init_from` (`from_pretrained`).

    Args:
      config: what `get_config` returned, with command line overrides already in it.
      overrides: the overridden keys, dotted path -> value: of `epochs` and `steps`, setting one
        clears the other.

    Raises:
      UserError: an unknown key, both or neither of epochs and steps, a bad value, or nothing at
        `init_from`.
    """
    config = config.copy_and_resolve_references()
    overrides = overrides or {}
    if "steps" in overrides and "epochs" not in overrides:
        config.epochs = None
    elif "epochs" in overrides and "steps" not in overrides:
        config.steps = None
    _check_keys(config, base_config(), "")
    with config.unlocked():
        from_pretrained.fill_in(config)
    if (config.epochs is None) == (config.steps is None):
        raise UserError(
            f"set exactly one of epochs and steps (they are {config.epochs} and {config.steps})"
        )
    if not (config.epochs or 0) > 0 and not (config.steps or 0) > 0:
        key = "steps" if config.epochs is None else "epochs"
        raise UserError(f"{key} is {config[key]}; a run needs more than 0")
    for path in NOT_NEGATIVE:
        section, _, key = path.partition(".")
        if (config[section][key] or 0) < 0:
            raise UserError(f"{path} is {config[section][key]}; it must not be negative")
    if config.batch_size < 1:
        raise UserError(f"batch_size is {config.batch_size}; it must be at least 1")
    if config.dtype not in DTYPES:
        raise UserError(
            f"dtype {config.dtype!r} is not one of {', '.join(DTYPES)}."
            f"{nearest(config.dtype, DTYPES)}"
        )
    if config.profile_steps and len(config.profile_steps) != 2:
        raise UserError(f"profile_steps is {tuple(config.profile_steps)}; give (first, last)")
    if config.log.every_steps < 1:
        raise UserError(f"log.every_steps is {config.log.every_steps}; it must be at least 1")
    return config.lock()


def _check_keys(config: ConfigDict, known: ConfigDict, prefix: str) -> None:
    for key in config:
        path = prefix + key
        if key not in known:
            raise UserError(
                f"unknown config key {path}; known keys: {', '.join(sorted(known))}."
                f"{nearest(key, known)}"
            )
        value = config[key]
        if path in OPEN_SECTIONS:
            continue
        if isinstance(known[key], ConfigDict) != isinstance(value, ConfigDict):
            kind = "a section" if isinstance(known[key], ConfigDict) else "a value"
            raise UserError(f"config key {path} must be {kind}, not {value!r}")
        if isinstance(value, ConfigDict):
            _check_keys(value, known[key], path + ".")
