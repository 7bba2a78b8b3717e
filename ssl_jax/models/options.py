"""Types of options that several nets share, and marks of options that are not architecture."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from ssl_jax.config.fields import positive


@dataclasses.dataclass(frozen=True)
class _Mark:
    """A mark in an option's annotation."""


# Marks an option that decides how a net is trained or computed, not which arrays it has. A run that
# starts from a pretrained net takes over all its other options.
not_architecture = _Mark()

Count = Annotated[int, positive]
AttentionOption = Annotated[
    Literal["auto", "xla", "cudnn", "splash"],
    not_architecture,
    "How attention is computed, with one result; splash is for TPUs.",
]
