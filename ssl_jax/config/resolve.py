"""Checks a config and settles the keys that depend on others."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from ssl_jax.config import fields, from_pretrained
from ssl_jax.config.base import shared_keys
from ssl_jax.config.schema import schema
from ssl_jax.core.errors import UserError


def resolve(config: ConfigDict, overrides: dict[str, Any] | None = None) -> ConfigDict:
    """Checks every key and fills in the defaults of those that are not set. Returns a locked copy.

    It settles what depends on others too: `epochs` and `steps`, and what is left to `init_from`
    (`from_pretrained`).

    Args:
      config: what `get_config` returned, with command line overrides already in it.
      overrides: the overridden keys, dotted path -> value: of `epochs` and `steps`, setting one
        clears the other.

    Raises:
      UserError: an unknown key, a bad value, both or neither of epochs and steps, or nothing at
        `init_from`.
    """
    config = config.copy_and_resolve_references()
    overrides = overrides or {}
    with config.unlocked():
        if "steps" in overrides and "epochs" not in overrides:
            config.epochs = None
        elif "epochs" in overrides and "steps" not in overrides:
            config.steps = None
        fields.check(shared_keys(config), config, "")
        from_pretrained.fill_in(config, overrides)
    config = complete(config)
    if (config.epochs is None) == (config.steps is None):
        raise UserError(
            f"set exactly one of epochs and steps (they are {config.epochs} and {config.steps})"
        )
    return config.lock()


def complete(config: ConfigDict) -> ConfigDict:
    """The config with the default of every key that it lacks; values have their keys' types.

    Raises:
      UserError: an unknown key or a bad value.
    """
    return ConfigDict(fields.check(schema(config), config, ""), type_safe=False)
