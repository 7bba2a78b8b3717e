"""Config keys set from text, as on a command line: `optimizer.base_lr=0.3`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from ssl_jax.config import fields
from ssl_jax.config.schema import INIT_FROM, schema


def apply(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """Sets dotted keys in a copy of `config`.

    Another method, net, adapter or evaluation (`method.name`, `model.name`, `nets.ROLE.name`,
    `adapt.name`, `eval.NAME.evaluation`) keeps those keys of its section that it knows.

    Args:
      config: what `load` returned, not yet resolved.
      values: dotted key -> value; text is read as the type that the key has.

    Raises:
      UserError: there is no such key, or the text is no such value.
    """
    config = config.copy_and_resolve_references()
    # Names decide which other keys there are.
    names = {path: value for path, value in values.items() if _decides(path)}
    with config.unlocked():
        for path, value in names.items():
            value = None if value == "None" else value
            before = _set(config, path, value)
            if before not in (None, value) and path != "data.name":
                _drop_unknown(config, path)
        declared = schema(config)
        for path, value in values.items():
            if path not in names:
                fields.find(declared, path)
                _set(config, path, fields.parse(declared, path, value)
                     if isinstance(value, str) else value)  # fmt: skip
    return config


def _decides(path: str) -> bool:
    """Whether other keys depend on the key."""
    sections = r"(method|model|nets\.\w+|adapt|data|data\.sampler)\.name"
    return re.fullmatch(rf"{sections}|eval\.\w+\.evaluation", path) is not None


def _set(config: ConfigDict, path: str, value: Any) -> Any:
    """Sets a key, whatever type it had, and returns what it was."""
    *sections, key = path.split(".")
    for name in sections:
        if name not in config:
            config[name] = ConfigDict(type_safe=False)
        config = config[name]
    before = config.get(key, None)
    if key in config:
        del config[key]
    config[key] = value
    return before


def _drop_unknown(config: ConfigDict, path: str) -> None:
    """Drops the keys that the section of another method, net and so on does not have."""
    where, _, decider = path.rpartition(".")
    section = config
    for name in where.split("."):
        section = section[name]
    before = dict(section.items())
    for key in before.keys() - {decider}:
        del section[key]
    if section[decider] != INIT_FROM:
        known = fields.section(fields.find(schema(config), where).type).keys
        section.update({key: value for key, value in before.items() if key in known})
