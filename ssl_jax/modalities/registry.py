"""Finds the modality of a data set."""

from __future__ import annotations

from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec
from ssl_jax.modalities.audio import AUDIO
from ssl_jax.modalities.base import Modality
from ssl_jax.modalities.image import IMAGE
from ssl_jax.modalities.table import TABLE
from ssl_jax.modalities.text import TEXT

MODALITIES: dict[str, Modality] = {
    modality.name: modality for modality in (IMAGE, TEXT, AUDIO, TABLE)
}


def of(spec: DataSpec) -> Modality:
    """The modality of a data set."""
    return MODALITIES[spec.modality]


def require(config: Any, spec: DataSpec, name: str) -> None:
    """Checks that the data of a method have the modality it needs.

    Args:
      config: the whole config.
      spec: of the data.
      name: of the needed modality.

    Raises:
      UserError: the data have another modality.
    """
    if spec.modality != name:
        raise UserError(
            f"method {config.method.name} is for data of modality {name}, but {config.data.name} "
            f"has modality {spec.modality}"
        )
