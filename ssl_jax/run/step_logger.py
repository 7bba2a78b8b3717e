"""Per-step logging: metric rows, the progress bar, collapse monitoring, NaN detection."""

from __future__ import annotations

import math

import jax
import numpy as np

from ssl_jax import data, evals
from ssl_jax.core.errors import RunError
from ssl_jax.evals import collapse
from ssl_jax.experiment.build import Experiment
from ssl_jax.hardware import memory
from ssl_jax.run import metrics, progress


class NonFiniteLossError(RunError):
    """The loss became NaN or infinite; the last good checkpoint is kept."""


class StepLogger:
    """Turns the device arrays that train steps return into rows, lines, warnings and errors.

    Logging never blocks the device: the values of one step are fetched and written while the next
    step runs. Every loss of an interval is checked, so a loss that is not finite is reported at the
    end of the interval with its exact step.

    Args:
      experiment: the experiment that trains.
      source: the training data, which counts the examples it could not read.
      writer: receives the metric rows.
      bar: receives the lines for the terminal.
      meter: measures the speed.
      rows: metric rows from before this start; they restore the collapse monitor.
    """

    def __init__(
        self,
        experiment: Experiment,
        source: data.Source,
        writer: metrics.MetricWriter,
        bar: progress.ProgressBar,
        meter: progress.Throughput,
        rows: list[metrics.Row],
    ):
        self._rates = experiment.groups.rates
        self._log_every = experiment.config.log.every_steps
        self._monitor_every = experiment.config.eval.collapse_every_steps
        self._total = experiment.length.total_steps
        self._section = experiment.config.eval
        self._writer, self._bar, self._meter = writer, bar, meter
        self._source, self._reported_problems = source, 0
        self._monitor = _restored_monitor(rows)
        self._diagnose = jax.jit(collapse.diagnostics)
        self._diagnose_is_compiled = False
        self._unchecked_losses: list[tuple[int, jax.Array]] = []
        self._pending: tuple[int, dict[str, jax.Array], dict[str, jax.Array]] | None = None

    def step(self, step: int, values: dict[str, jax.Array], outputs: dict[str, jax.Array]) -> None:
        """Takes the metrics and outputs of the update that made the state's step `step`.

        Raises:
          NonFiniteLossError: after a logging step, if a loss up to it was not finite.
        """
        self.flush()
        self._unchecked_losses.append((step, values["loss"]))
        monitored = bool(self._monitor_every) and "z" in outputs
        if monitored and not self._diagnose_is_compiled:  # at the start, not in mid-run
            with self._meter.pause():
                jax.block_until_ready(self._diagnose(outputs["z"], outputs.get("h")))
                memory.release()
            self._diagnose_is_compiled = True
        diagnostics = {}
        if monitored and step % self._monitor_every == 0:
            diagnostics = self._diagnose(outputs["z"], outputs.get("h"))
        if step % self._log_every == 0 or step == self._total or diagnostics:
            self._pending = step, values, diagnostics

    def flush(self) -> None:
        """Writes the pending row, if there is one.

        Raises:
          NonFiniteLossError: a loss up to its step was not finite.
        """
        if self._pending is None:
            return
        (step, values, diagnostics), self._pending = self._pending, None
        self.check_losses(step)
        row = {f"train/{name}": value for name, value in _to_host(values).items()}
        row |= {f"train/{name}": rate for name, rate in self._rates(step - 1).items()}
        row |= self._meter.measure(step)
        diagnostics = _to_host(diagnostics)
        row |= {_COLLAPSE + name: value for name, value in diagnostics.items()}
        self._writer.write(step, row)
        self._bar.update(step, row)
        if len(self._source.problems) > self._reported_problems:
            self._reported_problems = len(self._source.problems)
            self._bar.message(f"warning: {self._source.problem_summary()}")
        if diagnostics:
            self._monitor, alarms = self._monitor.update(step, _monitored(row))
            for alarm in alarms:
                self._writer.write(step, {"warning": alarm.message})
                self._bar.message(f"warning: {alarm.message}")

    def check_losses(self, up_to: int | None = None) -> None:
        """Checks the losses that are not yet checked, up to a step; default all.

        Raises:
          NonFiniteLossError: one of them was not finite.
        """
        pairs = [pair for pair in self._unchecked_losses if up_to is None or pair[0] <= up_to]
        self._unchecked_losses = self._unchecked_losses[len(pairs) :]
        losses = jax.device_get([loss for _, loss in pairs])
        for (step, _), loss in zip(pairs, losses, strict=True):
            if not math.isfinite(loss):
                raise NonFiniteLossError(
                    f"the loss is {float(loss)} at step {step}; lower optimizer.base_lr, lengthen "
                    "the warm-up or set optimizer.clip.norm. The last good checkpoint is kept"
                )

    def evaluation(self, step: int, values: dict[str, float]) -> None:
        """Logs the metrics of evaluations at `step`, and prints those declared as `shown`."""
        self._writer.write(step, {f"eval/{name}": value for name, value in values.items()})
        described = {name: evals.describe(name, self._section) for name in values}
        shown = "  ".join(
            f"{name} {metric.with_unit(values[name])}"
            for name, metric in described.items()
            if metric is not None and metric.shown
        )
        self._bar.message(f"step {step}: {shown}")


_COLLAPSE = "collapse/"


def _restored_monitor(rows: list[metrics.Row]) -> collapse.Monitor:
    """The collapse monitor after the rows of an earlier start."""
    monitor = collapse.Monitor()
    for row in rows:
        if any(key.startswith(_COLLAPSE) for key in row):
            monitor, _ = monitor.update(int(row["step"]), _monitored(row))
    return monitor


def _monitored(row: metrics.Row) -> dict[str, float]:
    """What the collapse monitor reads of a row."""
    targets = {name: row[f"train/{name}"] for name in collapse.TARGETS if f"train/{name}" in row}
    values = {k.removeprefix(_COLLAPSE): v for k, v in row.items() if k.startswith(_COLLAPSE)}
    return targets | values


def _to_host(values: dict[str, jax.Array]) -> dict[str, float]:
    return {name: float(np.asarray(value)) for name, value in jax.device_get(values).items()}
