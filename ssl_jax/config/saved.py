"""The config of a run as its workdir keeps it: as JSON."""

from __future__ import annotations

import json
from typing import Any

from ml_collections import ConfigDict

from ssl_jax.config.resolve import complete
from ssl_jax.core.errors import UserError

# Counts changes after which a config.json of before cannot be read.
FORMAT = 1


def to_json(config: ConfigDict) -> str:
    """The config as JSON, keys sorted: what `config.json` of a workdir holds."""
    keys = {"format": FORMAT, **config.to_dict()}
    return json.dumps(keys, indent=2, sort_keys=True, default=list) + "\n"


def from_json(text: str, where: str = "config.json") -> ConfigDict:
    """Inverse of `to_json`; lists become tuples.

    A key that did not exist when the config was written has its default.

    Args:
      text: what `to_json` returned.
      where: the file, for errors.

    Raises:
      UserError: it is no config of a run, its format is another one, or a key is unknown today or
        has a bad value.
    """
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} cannot be read: {error}") from error
    if not isinstance(config, dict) or "format" not in config:
        raise UserError(f"{where} is not the config of a run: it has no format number")
    number = config.pop("format")
    if number != FORMAT:
        raise UserError(
            f"{where} has format {number} and this version of ssl_jax reads format {FORMAT}; use "
            "the version that wrote it"
        )
    return complete(ConfigDict(config, type_safe=False))


# Keys in which a workdir's config may differ from the one given: they change how a run is watched
# or how long it is, not what it computes at a step that both have.
# `eval.online` is none: it decides whether a checkpoint holds a probe. The run itself compares
# the names of the classes, whose order may differ.
FREE_KEYS = ("epochs", "steps", "early_stopping", "log", "eval", "checkpoint", "profile_steps",
             "compilation_cache", "data.workers", "data.prefetch", "data.class_names",
             "mesh")  # fmt: skip


def difference(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Lines `key: old -> new` for every key that differs and is not one of FREE_KEYS."""
    flat_old, flat_new = _flat(old.to_dict()), _flat(new.to_dict())
    lines = []
    for key in sorted(flat_old.keys() | flat_new.keys()):
        free = any(key == name or key.startswith(name + ".") for name in FREE_KEYS)
        if free and key != "eval.online":
            continue
        before, after = flat_old.get(key, "(absent)"), flat_new.get(key, "(absent)")
        if before != after:
            lines.append(f"{key}: {before} -> {after}")
    return lines


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            out.update(_flat(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = json.loads(json.dumps(value, default=list))
    return out
