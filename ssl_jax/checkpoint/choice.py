"""Decides whether the results of a run come from its best or its last checkpoint."""

from __future__ import annotations

from ml_collections import ConfigDict


def takes_best(config: ConfigDict) -> bool:
    """Whether the results of a run come from its best checkpoint instead of its last."""
    return config.eval.final_checkpoint == "best" or config.early_stopping.patience > 0
