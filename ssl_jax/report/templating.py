"""The HTML templates of the page.

Python hands plain values to the templates, and only the templates hold markup. Every value is
cleaned of control characters and escaped where it is written, unless it is a `markupsafe.Markup`,
such as a drawing of `figures`. A name that a template uses and nobody defines is an error.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ssl_jax.report.plain_text import plain


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page under its own heading.

    Attributes:
      id: the anchor of the heading.
      title: the heading.
      template: the file in `templates/` that writes the content.
      content: what the template gets under that name; empty or None leaves the section out.
    """

    id: str
    title: str
    template: str
    content: Any


def render(template: str, **values: Any) -> str:
    """The text of a file in `templates/`.

    Args:
      template: name of the file.
      values: the variables that the template uses.

    Raises:
      jinja2.UndefinedError: the template uses a value that is missing.
    """
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ssl_jax.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["thousands"] = "{:,}".format
    return environment


def _clean(value: object) -> object:
    """A value as a template writes it: markup unchanged, all else without control characters."""
    return value if isinstance(value, Markup) else plain(value)
