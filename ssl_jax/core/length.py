"""Computes the length of a run from its config and the size of the training set."""

from __future__ import annotations

import dataclasses
import math

from ml_collections import ConfigDict

from ssl_jax.core.errors import UserError

_MAX_STEPS = 2**31 - 1  # the step of a state is an int32


@dataclasses.dataclass(frozen=True)
class Length:
    """The length of a run and the intervals of evaluations and checkpoints, in steps."""

    steps_per_epoch: int
    total_steps: int
    eval_every: int  # 0: at the end only
    checkpoint_every: int

    @classmethod
    def of(cls, config: ConfigDict, steps_per_epoch: int) -> Length:
        """Computes the length from a resolved config.

        Args:
          config: the config.
          steps_per_epoch: of the sampler, see `ssl_jax.data.samplers.base`.

        Raises:
          UserError: it has more steps than can be counted.
        """
        per_epoch = steps_per_epoch
        total = config.steps or math.ceil(config.epochs * per_epoch)
        if total > _MAX_STEPS:
            raise UserError(
                f"the run would have {total:.3g} steps and can have {_MAX_STEPS:,}; set a smaller "
                f"{'steps' if config.steps else 'epochs'}"
            )
        every_steps = config.checkpoint.every_steps
        every = every_steps or round(config.checkpoint.every_epochs * per_epoch)
        evals = round(config.eval.every_epochs * per_epoch)
        if config.eval.every_epochs > 0:
            evals = max(evals, 1)
        return cls(per_epoch, total, evals, max(every, 1))
