"""Objectives as pure functions of arrays."""

from ssl_jax.losses.contrastive import (
    choose_implementation,
    choose_one_sided,
    info_nce,
    margin_triplet,
    nt_logistic,
    nt_xent,
    unit_length,
)

__all__ = [
    "choose_implementation",
    "choose_one_sided",
    "info_nce",
    "margin_triplet",
    "nt_logistic",
    "nt_xent",
    "unit_length",
]
