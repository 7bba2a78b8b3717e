"""Lists methods, configs, models, data sets or evaluations: ssl_jax list methods

Takes one or more of methods, configs, models, data and evals; without a name it lists all of them.
"""

from __future__ import annotations

import ast
import importlib.util
import pathlib
import sys
from collections.abc import Callable

from ssl_jax.core.errors import UserError, nearest


def define_flags() -> None:
    """No options; what to list is the command's argument."""


def main() -> int:
    kinds = sys.argv[1:] or list(KINDS)
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(
                f"nothing is called {kind!r}; list one of {', '.join(KINDS)}.{nearest(kind, KINDS)}"
            )
    for number, kind in enumerate(kinds):
        rows = KINDS[kind]()
        if len(kinds) > 1:
            print(f"{'' if number == 0 else chr(10)}{kind}:")
        width = max(len(name) for name, _ in rows)
        for name, text in rows:
            print(f"  {name:<{width}}  {text}".rstrip())
    return 0


def _methods() -> list[tuple[str, str]]:
    from ssl_jax.core import named_methods

    return [(name, _about(f"ssl_jax.methods.{name}")) for name in named_methods.names()]


def _configs() -> list[tuple[str, str]]:
    from ssl_jax import config

    return [
        (name, _first_sentence(pathlib.Path(config.locate(name)[0]))) for name in config.names()
    ]


def _models() -> list[tuple[str, str]]:
    from ssl_jax import models

    return [(name, "") for name in models.ENCODERS]


def _data() -> list[tuple[str, str]]:
    from ssl_jax import data

    return [
        (kind.usage, _about(f"ssl_jax.data.kinds.{kind.name}")) for kind in data.kinds().values()
    ]


def _evals() -> list[tuple[str, str]]:
    from ssl_jax import evals

    return [(name, _about(f"ssl_jax.evals.{name}")) for name in evals.names()]


KINDS: dict[str, Callable[[], list[tuple[str, str]]]] = {
    "methods": _methods,
    "configs": _configs,
    "models": _models,
    "data": _data,
    "evals": _evals,
}


def _about(module: str) -> str:
    """The first sentence of a module's docstring; the module is not imported."""
    return _first_sentence(pathlib.Path(importlib.util.find_spec(module).origin))


def _first_sentence(path: pathlib.Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.partition("\n\n")[0].split())
