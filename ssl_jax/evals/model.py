"""The input of an evaluation of a whole model: the method, its weights and its outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ssl_jax.core.method import Batch, Method, Weights

Outputs = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Model:
    """A model under evaluation.

    Attributes:
      features: (jitted) function of a batch -> outputs by name, such as `h` [n d].
      method: None where there is none: of the raw inputs, which are evaluated as a baseline.
      weights: of the method.
      held_out: (jitted) function of a batch -> `Method.held_out` of it.
      kept: what an evaluation keeps for its baselines, by the evaluation's name.
    """

    features: Callable[[Batch], Outputs]
    method: Method | None = None
    weights: Weights | None = None
    held_out: Callable[[Batch], Outputs] | None = None
    kept: dict[str, Any] = dataclasses.field(default_factory=dict)

    def apply(self, function: str, *arguments: Any) -> Any:
        """A function of the method, jitted, of its weights and these arguments."""
        return jax.jit(getattr(self.method, function))(self.weights, *arguments)
