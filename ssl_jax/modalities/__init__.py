"""What examples are: one object a modality. Nothing else branches on the arrays of a batch."""

from ssl_jax.modalities.base import Modality
from ssl_jax.modalities.registry import MODALITIES, of, require

__all__ = ["MODALITIES", "Modality", "of", "require"]
