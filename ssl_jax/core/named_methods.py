"""Finds methods by name: they are the files of `ssl_jax/methods/`."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any

from ssl_jax.config import fields
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.length import Length
from ssl_jax.core.method import DataSpec, Method


def load(config: Any, spec: DataSpec, length: Length) -> Method:
    """Builds the method that `config.method.name` names.

    Args:
      config: the whole config; a method reads it only here.
      spec: shapes and facts of the data.
      length: of the run and of an epoch, for schedules inside the method.

    Raises:
      UserError: the method is unknown, or a key of a section is unknown or has a bad value.
    """
    return _module(config.method.get("name")).make(config, spec, length)


def declaration(name: str) -> fields.Section:
    """Declares the section `config.method` of a method: its name and its hyper-parameters.

    Raises:
      UserError: the method is unknown.
    """
    keys = fields.section(_module(name).HyperParameters).keys
    return fields.Section({"name": fields.Key(str, doc="The method."), **keys})


def _module(name: str | None) -> ModuleType:
    known = names()
    if name not in known:
        what = "method.name is not set" if name is None else f"unknown method {name!r}"
        raise UserError(f"{what}; methods: {', '.join(known)}.{nearest(name or '', known)}")
    return importlib.import_module(f"ssl_jax.methods.{name}")


def names() -> list[str]:
    """Names of the methods, which are the files of `ssl_jax/methods/`."""
    import ssl_jax.methods as package

    return sorted(
        module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg
    )
