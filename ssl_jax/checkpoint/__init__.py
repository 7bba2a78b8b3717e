"""Checkpoints: asynchronous saves, verified restores, exact resumption."""

from ssl_jax.checkpoint.checkpointer import Checkpointer
from ssl_jax.checkpoint.errors import (
    CheckpointError,
    DamagedCheckpointError,
    NonFiniteStateError,
)

__all__ = [
    "CheckpointError",
    "Checkpointer",
    "DamagedCheckpointError",
    "NonFiniteStateError",
]
