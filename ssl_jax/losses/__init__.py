"""Objectives as pure functions of arrays."""

from ssl_jax.losses.contrastive import nt_xent, unit_length

__all__ = ["nt_xent", "unit_length"]
