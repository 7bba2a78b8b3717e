"""Which checkpoint of a run counts as its result."""

from __future__ import annotations

from ml_collections import ConfigDict


def takes_best(config: ConfigDict) -> bool:
    """Whether the results of a run are those of its best checkpoint, not of its last."""
    return config.eval.final_checkpoint == "best" or config.early_stopping.patience > 0
