"""Reads `config.data.sampler`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssl_jax.config import fields
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.data.samplers.base import Sampler
from ssl_jax.data.samplers.pk import PK
from ssl_jax.data.samplers.shuffle import Shuffle
from ssl_jax.data.samplers.stream import Stream

SAMPLERS: dict[str, type[Sampler]] = {"shuffle": Shuffle, "pk": PK, "stream": Stream}


def declaration(name: str) -> fields.Section:
    """Declares `config.data.sampler` of a sampler: its name and its fields.

    Raises:
      UserError: there is no such sampler.
    """
    if name not in SAMPLERS:
        raise UserError(
            f"data.sampler.name is {name!r}; samplers: {', '.join(SAMPLERS)}."
            f"{nearest(str(name), SAMPLERS)}"
        )
    keys = fields.section(SAMPLERS[name]).keys
    return fields.Section({"name": fields.Key(str, "shuffle", "The sampler."), **keys})


def from_config(section: Mapping[str, Any]) -> Sampler:
    """The sampler that `config.data.sampler` describes.

    Args:
      section: `name` and the fields of that sampler.

    Raises:
      UserError: there is no such sampler or field, or a bad value.
    """
    options = fields.check(declaration(section["name"]), section, "data.sampler")
    return SAMPLERS[options.pop("name")](**options)
