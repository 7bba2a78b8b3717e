"""Modalities (images, text, audio): what depends on the kind of examples, one object each."""

from ssl_jax.modalities.base import Modality
from ssl_jax.modalities.registry import MODALITIES, of, require

__all__ = ["MODALITIES", "Modality", "of", "require"]
