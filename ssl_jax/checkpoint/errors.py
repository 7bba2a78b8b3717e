"""Errors of checkpoints. Each message is one line: the error, its place and what is kept."""

from ssl_jax.core.errors import RunError


class CheckpointError(RunError):
    """Saving or restoring failed."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint cannot be read, or its bits differ from what was saved."""


class NonFiniteStateError(CheckpointError):
    """The state to save holds NaN or infinity; nothing was written."""
