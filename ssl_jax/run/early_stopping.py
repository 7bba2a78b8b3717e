"""Early stopping: stops a run whose validation metric no longer improves.

The decision depends only on the logged evaluation rows. A resumed run reads the same rows, so it
decides as the uninterrupted run would.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from ssl_jax.checkpoint.choice import takes_best
from ssl_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Stops after `patience` evaluations without improvement.

    Attributes:
      metric: key of a row, e.g. "eval/knn/top1".
      mode: "max" or "min".
      patience: number of consecutive evaluations without improvement; 0 never stops.
      min_delta: smallest difference from the best value that counts as an improvement.
      best: whether the results of the run come from the best checkpoint instead of the last one.
    """

    metric: str
    mode: str = "max"
    patience: int = 0
    min_delta: float = 0.0
    best: bool = False

    @classmethod
    def of(cls, config: ConfigDict) -> EarlyStopping:
        """Reads the settings from a resolved config.

        Raises:
          UserError: a needed metric, evaluation, checkpoint or validation split is not set.
        """
        section, final = config.early_stopping, config.eval.final_checkpoint
        if section.patience:
            _check_choice(config, "early_stopping.patience")
        elif final == "best":
            _check_choice(config, "eval.final_checkpoint=best")
        return cls(
            config.checkpoint.best_metric,
            config.checkpoint.best_mode,
            section.patience,
            section.min_delta,
            takes_best(config),
        )

    def stops(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Whether the run stops after these rows, which are ordered by step.

        Rows without the metric are skipped. A value that is not finite is no improvement.
        """
        if not self.patience:
            return False
        sign = 1 if self.mode == "max" else -1
        best, waited = -math.inf, 0
        for row in rows:
            value = row.get(self.metric)
            if value is None:
                continue
            improved = math.isfinite(value) and sign * value > best + self.min_delta
            best, waited = (sign * value, 0) if improved else (best, waited + 1)
            if waited >= self.patience:
                return True
        return False


def _check_choice(config: ConfigDict, key: str) -> None:
    """Raises `UserError` if the config has no metric, or no split, to choose a checkpoint by."""
    section, saves = config.eval, config.checkpoint
    if not saves.best_metric:
        raise UserError(f"{key} needs checkpoint.best_metric to choose by")
    if not section.every_epochs:
        raise UserError(f"{key} needs evaluations to choose by; set eval.every_epochs")
    if saves.keep_best < 1:
        raise UserError(f"{key} needs the best checkpoint; set checkpoint.keep_best=1")
    if section.validation_split in (None, section.test_split, config.data.split):
        raise UserError(
            f"{key} chooses by eval.validation_split, which is {section.validation_split!r}; name "
            "a split that is neither trained on nor the test split, for instance "
            "data.split=train[:90%] and eval.validation_split=train[90%:]"
        )
