"""Converts weights to and from PyTorch names, safetensors and torch files."""

from ssl_jax.pretrained.formats.files import read, read_networks, write_safetensors
from ssl_jax.pretrained.formats.names import Entry, entries, from_torch, to_torch
from ssl_jax.pretrained.formats.networks import Selected, file_and_network, select

__all__ = [
    "Entry",
    "Selected",
    "entries",
    "file_and_network",
    "from_torch",
    "read",
    "read_networks",
    "select",
    "to_torch",
    "write_safetensors",
]
