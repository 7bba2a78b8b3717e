"""Reads `config.adapt`."""

from __future__ import annotations

from typing import Any

from ssl_jax.adapt import lora, prompt
from ssl_jax.adapt.wrap import wrap
from ssl_jax.config import fields
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.method import DataSpec, Method

ADAPTERS = {"lora": lora, "prompt": prompt}
_HINT = f"the keys of adapt depend on adapt.name; set it first: {' or '.join(ADAPTERS)}"
_NAME = fields.Key(str | None, None, "Adapters: lora or prompt; None: none.")


def declaration(name: str | None) -> fields.Section:
    """Declares `config.adapt`: the name of the adapters and their options.

    Raises:
      UserError: there are no adapters of this name.
    """
    if name is None:
        return fields.Section({"name": _NAME}, hint=_HINT)
    if name not in ADAPTERS:
        raise UserError(
            f"adapt.name is {name!r}; adapters: {', '.join(ADAPTERS)}.{nearest(name, ADAPTERS)}"
        )
    keys = fields.section(ADAPTERS[name].HyperParameters).keys
    return fields.Section({"name": _NAME, **keys})


def adapted(method: Method, config: Any, spec: DataSpec) -> Method:
    """The method with the adapters of `config.adapt`; the method itself if there are none.

    Args:
      method: the method that `config.method` describes.
      config: the whole config.
      spec: the data.

    Raises:
      UserError: the adapters do not fit the nets of the method, or an option has a bad value.
    """
    name = config.adapt.name
    if name is None:
        return method
    options = fields.check(declaration(name), config.adapt, "adapt")
    del options["name"]
    hyper = ADAPTERS[name].HyperParameters(**options)
    return wrap(method, ADAPTERS[name].make(method, hyper, spec), spec)
