"""Selects the weights that evaluations use, by `config.eval.weights`.

    params   the parameters
    ema      their moving average (momentum encoder, target, teacher), if the method has one.
             Parameters without an average, such as those of a predictor, are used as they are.
    polyak   the Polyak average of all parameters, see `config.optimizer.polyak`

Batch statistics are those of the training step; `Weights.averaged` describes the exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from ssl_jax import optim
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.method import Method, Weights
from ssl_jax.core.tree_paths import by_path, replace

PyTree = Any
CHOICES = ("params", "ema", "polyak")


def check(config: ConfigDict, method: Method, groups: optim.Groups) -> None:
    """Raises `UserError` if the run does not keep the weights of `config.eval.weights`."""
    check_choice(config.eval.weights, method, groups, "eval.weights")


def check_choice(choice: str, method: Method, groups: optim.Groups, where: str) -> None:
    """Like `check`, for a choice that the key or flag `where` makes."""
    if choice not in CHOICES:
        raise UserError(
            f"{where} is {choice!r}; use one of {', '.join(CHOICES)}.{nearest(choice, CHOICES)}"
        )
    if choice == "ema" and method.ema_decay is None:
        raise UserError(f"{where} is 'ema', but {method.title} keeps no moving average; use params")
    if choice == "polyak" and not groups.polyak:
        raise UserError(
            f"{where} is 'polyak', but optimizer.polyak is 0; set it, e.g. to 0.9999, or use params"
        )


def choose(w: Weights, choice: str, polyak: PyTree | None = None) -> Weights:
    """The weights to evaluate.

    Args:
      w: all weights of the method.
      choice: one of `CHOICES`.
      polyak: the Polyak average; needed if it is the choice.
    """
    if choice == "ema":
        return w.averaged()
    if choice == "polyak":
        return w._replace(params=replace(w.params, by_path(polyak)))
    return w


def prefixes(choice: str) -> list[str]:
    """Paths of the parts of a saved state that `from_parts` needs."""
    average = [f"opt_state/{optim.AVERAGE_PATHS[choice]}"] if choice in optim.AVERAGE_PATHS else []
    return ["params", "buffers", *average]


def from_parts(parts: Mapping[str, PyTree], choice: str) -> Weights:
    """The weights to evaluate, from the parts of a saved state by path."""
    w = Weights(parts["params"], parts["buffers"])
    if choice == "params":
        return w
    average = parts[prefixes(choice)[-1]]
    return choose(w._replace(ema=average) if choice == "ema" else w, choice, average)
