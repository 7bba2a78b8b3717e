"""What can go wrong with a checkpoint. Each message is one line: what, where and what is left."""

from ssl_jax.core.errors import RunError


class CheckpointError(RunError):
    """Saving or restoring failed."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint cannot be read, or holds other bits than were saved."""


class NonFiniteStateError(CheckpointError):
    """The state to be saved holds NaN or infinity; nothing was written."""
