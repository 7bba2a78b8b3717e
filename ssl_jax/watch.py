"""What looks on while a run trains: rows, the bar, the collapse monitor, non-finite losses."""

from __future__ import annotations

import math

import jax
import numpy as np

from ssl_jax import data, metrics, progress
from ssl_jax.errors import RunError
from ssl_jax.evals import collapse
from ssl_jax.experiment import Experiment


class NonFiniteLossError(RunError):
    """The loss became NaN or infinite; the last good checkpoint stands."""


class Watch:
    """Turns the device arrays that train steps return into rows, lines, warnings and errors.

    Nothing here waits for the device except at a logging step, where the interval's losses are
    fetched together: a non-finite loss is found within one interval and named by its exact step.

    Args:
      experiment: what runs.
      source: the training data, which counts what it could not read.
      writer: where rows go.
      bar: where lines go.
      meter: measures the speed.
      rows: metric rows from before this start, from which the collapse monitor picks up.
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
        self._schedule = experiment.schedule
        self._log_every = experiment.config.log.every_steps
        self._monitor_every = experiment.config.eval.collapse_every_steps
        self._total = experiment.length.total_steps
        self._writer, self._bar, self._meter = writer, bar, meter
        self._source, self._reported = source, 0
        self._monitor = _replayed(rows)
        self._diagnose = jax.jit(collapse.diagnostics)
        self._pending: list[tuple[int, jax.Array]] = []

    def step(self, step: int, values: dict[str, jax.Array], outputs: dict[str, jax.Array]) -> None:
        """Takes the metrics and outputs of the update that made the state's step `step`.

        Raises:
          NonFiniteLossError: at a logging step, if a loss since the last one was not finite.
        """
        self._pending.append((step, values["loss"]))
        diagnosed = {}
        if self._monitor_every and step % self._monitor_every == 0 and "z" in outputs:
            diagnosed = self._diagnose(outputs["z"], outputs["h"])
        if step % self._log_every and step != self._total and not diagnosed:
            return
        self.check_losses()
        row = {f"train/{name}": value for name, value in _to_host(values).items()}
        row["train/learning_rate"] = float(self._schedule(step - 1))
        row |= self._meter.measure(step)
        diagnosed = _to_host(diagnosed)
        row |= {_COLLAPSE + name: value for name, value in diagnosed.items()}
        self._writer.write(step, row)
        self._bar.update(step, row)
        if len(self._source.problems) > self._reported:
            self._reported = len(self._source.problems)
            self._bar.message(f"warning: {self._source.problem_summary()}")
        if diagnosed:
            self._monitor, alarms = self._monitor.update(step, diagnosed)
            for alarm in alarms:
                self._writer.write(step, {"warning": alarm.message})
                self._bar.message(f"warning: {alarm.message}")

    def check_losses(self) -> None:
        """Fetches the losses not yet looked at.

        Raises:
          NonFiniteLossError: one of them was not finite.
        """
        pending, self._pending = self._pending, []
        losses = jax.device_get([loss for _, loss in pending])
        for (step, _), loss in zip(pending, losses, strict=True):
            if not math.isfinite(loss):
                raise NonFiniteLossError(
                    f"the loss is {float(loss)} at step {step}; lower optimizer.base_lr, lengthen "
                    "the warm-up or set optimizer.clip_norm. The last good checkpoint is kept"
                )

    def evaluation(self, step: int, values: dict[str, float]) -> None:
        """Logs probe results at `step`."""
        self._writer.write(step, {f"eval/{name}": value for name, value in values.items()})
        scores = {name: value for name, value in values.items() if _is_headline(name)}
        shown = "  ".join(f"{name} {value:.1%}" for name, value in scores.items())
        self._bar.message(f"step {step}: {shown}")


def _is_headline(name: str) -> bool:
    """Whether a probe's value is a score for the bar, not a detail for the log."""
    evaluation, _, detail = name.partition("/")
    return detail == "top1" or (evaluation == "few_shot" and detail.isdigit())


_COLLAPSE = "collapse/"


def _replayed(rows: list[metrics.Row]) -> collapse.Monitor:
    """The monitor after everything that was logged before."""
    monitor = collapse.Monitor()
    for row in rows:
        values = {k.removeprefix(_COLLAPSE): v for k, v in row.items() if k.startswith(_COLLAPSE)}
        if values:
            monitor, _ = monitor.update(int(row["step"]), values)
    return monitor


def _to_host(values: dict[str, jax.Array]) -> dict[str, float]:
    return {name: float(np.asarray(value)) for name, value in jax.device_get(values).items()}
