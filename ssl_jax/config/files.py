"""Config files: Python files with `get_config(variant)`.

A config is named by its file, `configs/simclr.py:digits`, or, for those that come with the package,
by its name, `simclr:digits`.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import os
from types import ModuleType

from ml_collections import ConfigDict

from ssl_jax.core.errors import UserError, nearest

# Files of ssl_jax.configs that several configs share.
_SHARED = ("__init__", "common", "fashion", "scales")


def names() -> list[str]:
    """The configs of the package: `simclr`, and in folders `sweeps/methods`."""
    root = str(importlib.resources.files("ssl_jax.configs"))
    paths = []
    for folder, _, files in os.walk(root):
        inside = os.path.relpath(folder, root)
        for file in files:
            name, extension = os.path.splitext(file)
            if extension == ".py" and name not in _SHARED:
                paths.append(name if inside == "." else f"{inside}/{name}".replace(os.sep, "/"))
    return sorted(paths)


def locate(source: str) -> tuple[str, str]:
    """(path of the file, variant or "") of "NAME", "FILE.py", "NAME:VARIANT" or "FILE.py:VARIANT".

    Raises:
      UserError: there is no such file or config.
    """
    path, _, variant = source.partition(":")
    known = names()
    if path not in known:  # a folder here, such as that of a run, may have the name of a config
        if os.path.isdir(path) or (os.path.exists(path) and not path.endswith(".py")):
            raise UserError(f"{path} is no config file; write e.g. --config=simclr:digits")
        if path.endswith(".py"):
            if not os.path.exists(path):
                raise UserError(f"config file {path!r} does not exist")
            return path, variant
        raise UserError(
            f"there is no config {path!r}.{nearest(path, known)} `ssl_jax list configs` prints all"
        )
    return str(importlib.resources.files("ssl_jax.configs") / f"{path}.py"), variant


def load_module(source: str) -> tuple[ModuleType, str]:
    """The file that `source` names, executed, and the variant.

    Raises:
      UserError: there is no such file, or it is not Python.
    """
    path, variant = locate(source)
    spec = importlib.util.spec_from_file_location("_config_file", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"config file {path}, line {error.lineno}: {error.msg}") from error
    return module, variant


def load(source: str) -> ConfigDict:
    """The config that `source` names, not yet resolved.

    Raises:
      UserError: there is no such file, it is no config file, or has no such variant.
    """
    module, variant = load_module(source)
    if not hasattr(module, "get_config"):
        raise UserError(
            f"{source} is a sweep: ssl_jax sweep --config={source} --workdir=..."
            if hasattr(module, "get_sweep")
            else f"{source} has no function get_config"
        )
    return module.get_config(variant) if variant else module.get_config()
