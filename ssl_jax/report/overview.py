"""Prepares the top of the page: name, key facts, the end of the run, the first warning."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

from ssl_jax.report.config_values import as_text, flatten
from ssl_jax.report.inputs import ReportInputs


@dataclasses.dataclass(frozen=True)
class Ending:
    """The end of a run, and the step of its results.

    Attributes:
      last_step, total_steps, best_step: as in `ReportInputs`.
      metric: the metric that selects the best checkpoint; empty if there is none.
      patience: number of evaluations without improvement after which the run stops; may be None.
    """

    last_step: int | None
    total_steps: int | None
    best_step: int | None
    metric: str
    patience: int | None

    @property
    def stopped_early(self) -> bool:
        """Whether the run ended before its last step."""
        if self.last_step is None or self.total_steps is None:
            return False
        return self.last_step < self.total_steps

    @property
    def names_best(self) -> bool:
        """Whether the page states the step of the results."""
        if self.best_step is None:
            return False
        return self.stopped_early or self.best_step != self.last_step


@dataclasses.dataclass(frozen=True)
class Overview:
    """The top of the page.

    Attributes:
      name: name of the run; may be empty.
      subtitle: method, data set and date.
      facts: (label, value) of the main settings.
      ending: the end of the run.
      warnings: (step, text) of the collapse monitor, in order.
    """

    name: str
    subtitle: str
    facts: tuple[tuple[str, str], ...]
    ending: Ending
    warnings: tuple[tuple[int, str], ...]

    @classmethod
    def from_inputs(cls, inputs: ReportInputs) -> Overview:
        """The overview of a report."""
        flat = flatten(inputs.config)
        ending = Ending(
            inputs.last_step,
            inputs.total_steps,
            inputs.best_step,
            metric=flat.get("checkpoint.best_metric") or "",
            patience=flat.get("early_stopping.patience"),
        )
        facts = _facts(inputs, flat, ending)
        warnings = tuple(inputs.all_warnings())
        return cls(inputs.name, _subtitle(inputs), facts, ending, warnings)


def _subtitle(inputs: ReportInputs) -> str:
    date = inputs.date or datetime.date.today().isoformat()
    parts = [inputs.method, inputs.dataset and f"on {inputs.dataset}"]
    what = " ".join(part for part in parts if part)
    return " · ".join(part for part in (what, date) if part)


def _facts(
    inputs: ReportInputs, flat: Mapping[str, Any], ending: Ending
) -> tuple[tuple[str, str], ...]:
    steps = inputs.steps_taken
    epochs = flat.get("epochs")
    steps_text = f"{steps:,}" if steps is not None else flat.get("steps")
    if ending.stopped_early:
        steps_text = f"{steps_text} of {inputs.total_steps:,}"
        if epochs is not None:
            epochs = f"{epochs * steps / inputs.total_steps:.4g} of {as_text(epochs)}"
    facts = [
        ("encoder", flat.get("model.name")),
        ("batch size", flat.get("batch_size")),
        ("epochs", epochs),
        ("steps", steps_text),
        ("optimizer", flat.get("optimizer.name")),
        ("temperature", flat.get("method.temperature")),
        ("rows", _rows(flat)),
        ("seed", flat.get("seed")),
    ]
    return tuple((label, as_text(value)) for label, value in facts if value is not None)


def _rows(flat: Mapping[str, Any]) -> str | None:
    """For text, the format of rows and their number of tokens; otherwise None."""
    kind, length = (flat.get(f"data.options.{key}") for key in ("rows", "sequence_length"))
    return f"{kind}, {length} tokens" if kind and length else None
