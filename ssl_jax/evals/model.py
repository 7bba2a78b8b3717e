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
      features: (jitted) function: batch -> outputs by name, such as `h` [n d].
      method: None for raw inputs, which are evaluated as a baseline.
      weights: of the method.
      held_out: (jitted) function: batch -> `Method.held_out`.
      kept: values that an evaluation stores for its baselines, by the evaluation's name.
    """

    features: Callable[[Batch], Outputs]
    method: Method | None = None
    weights: Weights | None = None
    held_out: Callable[[Batch], Outputs] | None = None
    kept: dict[str, Any] = dataclasses.field(default_factory=dict)

    def apply(self, function: str, *arguments: Any) -> Any:
        """Calls a function of the method, jitted, with the weights and these arguments."""
        return jax.jit(getattr(self.method, function))(self.weights, *arguments)
