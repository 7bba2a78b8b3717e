"""How the length of a run follows from its config and the size of the training set."""

from __future__ import annotations

import dataclasses
import math

from ml_collections import ConfigDict

from ssl_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Length:
    """How long a run is and how often things happen in it, in steps."""

    steps_per_epoch: int
    total_steps: int
    eval_every: int  # 0: at the end only
    checkpoint_every: int

    @classmethod
    def of(cls, config: ConfigDict, num_examples: int) -> Length:
        """Reads it from a resolved config for a training set of `num_examples`.

        An epoch has floor(num_examples / batch_size) steps: no batch crosses its end.

        Raises:
          UserError: the batch is larger than the data set.
        """
        per_epoch = num_examples // config.batch_size
        if per_epoch == 0:
            raise UserError(
                f"batch_size {config.batch_size} is larger than the training set of "
                f"{num_examples} examples; use {num_examples} or less"
            )
        total = config.steps or math.ceil(config.epochs * per_epoch)
        every_steps = config.checkpoint.every_steps
        every = every_steps or round(config.checkpoint.every_epochs * per_epoch)
        evals = round(config.eval.every_epochs * per_epoch)
        if config.eval.every_epochs > 0:
            evals = max(evals, 1)
        return cls(per_epoch, total, evals, max(every, 1))
