"""Adapters: train few parameters beside the frozen weights of a pretrained net (`config.adapt`)."""

from ssl_jax.adapt.registry import adapted, declaration
from ssl_jax.adapt.wrap import frozen_groups, merged

__all__ = ["adapted", "declaration", "frozen_groups", "merged"]
