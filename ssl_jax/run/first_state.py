"""The state that a run begins with: random weights, or those of `config.init_from`."""

from __future__ import annotations

from ssl_jax.experiment.build import Experiment
from ssl_jax.experiment.train_step import TrainState
from ssl_jax.pretrained import init_from


def first_state(
    experiment: Experiment, tokenizer: str | None = None
) -> tuple[TrainState, list[str]]:
    """The state, and lines on the weights that it has from elsewhere.

    Args:
      experiment: the run.
      tokenizer: the content of the run's tokenizer.json; None for images or to skip the comparison.

    Raises:
      UserError: see `init_from.load`.
    """
    config = experiment.config
    if config.init_from is None or not config.init_weights:
        return experiment.init_state(), []
    loaded, lines = init_from.load(config.init_from, experiment, tokenizer)
    return experiment.init_state(loaded), lines
