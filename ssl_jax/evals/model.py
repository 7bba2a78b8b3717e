"""The input of an evaluation of a whole model: the method, its weights and its outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from ssl_jax.core.layer_outputs import is_layer_output
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
      layer_outputs: (jitted) function: (batch, names) -> the outputs of layers with these names
        (`ssl_jax.core.layer_outputs`).
      raw_outputs: without a method: the names of the outputs that there are.
      start: gives the model with the weights that its run began with; None: they are not known.
      kept: values that an evaluation stores for its baselines, by the evaluation's name.
    """

    features: Callable[[Batch], Outputs]
    method: Method | None = None
    weights: Weights | None = None
    held_out: Callable[[Batch], Outputs] | None = None
    layer_outputs: Callable[[Batch, tuple[str, ...]], Outputs] | None = None
    raw_outputs: tuple[str, ...] = ("h",)
    start: Callable[[], Model] | None = None
    kept: dict[str, Any] = dataclasses.field(default_factory=dict)

    def outputs(self, batch: Batch, names: Iterable[str]) -> dict[str, jax.Array]:
        """All features of a batch, and the outputs of layers that `names` contains.

        If `names` contains only outputs of layers, the features are not computed.

        Raises:
          UserError: the encoder lacks a named layer.
        """
        names = set(names)
        of_layers = {name for name in names if is_layer_output(name)}
        outputs = {} if of_layers and of_layers == names else dict(self.features(batch))
        if of_layers and self.layer_outputs is not None:
            outputs |= self.layer_outputs(batch, tuple(sorted(of_layers)))
        return outputs

    def apply(self, function: str, *arguments: Any) -> Any:
        """Calls a function of the method, jitted, with the weights and these arguments."""
        return jax.jit(getattr(self.method, function))(self.weights, *arguments)
