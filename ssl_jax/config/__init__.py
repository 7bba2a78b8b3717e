"""Configs: the shared keys, config files, and how a config is checked.

An experiment is a Python file whose `get_config(variant)` starts from `base_config()` and returns
an `ml_collections.ConfigDict` of primitives. Every key can be set on the command line as
`--config.section.key=value`; an unknown key stops the command with the nearest known name.
"""

from ssl_jax.config.base import base_config
from ssl_jax.config.files import load, load_module, locate, names
from ssl_jax.config.listing import listing
from ssl_jax.config.overrides import apply
from ssl_jax.config.resolve import resolve
from ssl_jax.config.saved import difference, from_json, to_json
from ssl_jax.core.length import Length

__all__ = [
    "Length",
    "apply",
    "base_config",
    "difference",
    "from_json",
    "listing",
    "load",
    "load_module",
    "locate",
    "names",
    "resolve",
    "to_json",
]
