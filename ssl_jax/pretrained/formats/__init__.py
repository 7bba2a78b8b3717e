"""Converts weights to and from PyTorch names, safetensors and torch files."""

from ssl_jax.pretrained.formats.files import read, write_safetensors
from ssl_jax.pretrained.formats.names import Entry, entries, from_torch, strip_prefix, to_torch

__all__ = [
    "Entry",
    "entries",
    "from_torch",
    "read",
    "strip_prefix",
    "to_torch",
    "write_safetensors",
]
