"""What looks on while a run trains: rows, the bar, the collapse monitor, non-finite losses."""

from __future__ import annotations

import math

import jax
import numpy as np

from ssl_jax import data, evals
from ssl_jax.core.errors import RunError
from ssl_jax.evals import collapse
from ssl_jax.experiment.build import Experiment
from ssl_jax.run import metrics, progress


class NonFiniteLossError(RunError):
    """The loss became NaN or infinite; the last good checkpoint stands."""


class Watch:
    """Turns the device arrays that train steps return into rows, lines, warnings and errors.

    Nothing here keeps a device waiting: what a logging step returned is fetched and written while
    the step after it runs. All losses of an interval are looked at, so that one which is not finite
    is found at the interval's end and named by its exact step.

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
        self._rates = experiment.groups.rates
        self._log_every = experiment.config.log.every_steps
        self._monitor_every = experiment.config.eval.collapse_every_steps
        self._total = experiment.length.total_steps
        self._section = experiment.config.eval
        self._writer, self._bar, self._meter = writer, bar, meter
        self._source, self._reported = source, 0
        self._monitor = _replayed(rows)
        self._diagnose = jax.jit(collapse.diagnostics)
        self._warm = False
        self._losses: list[tuple[int, jax.Array]] = []  # not looked at yet
        self._due: tuple[int, dict[str, jax.Array], dict[str, jax.Array]] | None = None

    def step(self, step: int, values: dict[str, jax.Array], outputs: dict[str, jax.Array]) -> None:
        """Takes the metrics and outputs of the update that made the state's step `step`.

        Raises:
          NonFiniteLossError: after a logging step, if a loss up to it was not finite.
        """
        self.flush()
        self._losses.append((step, values["loss"]))
        monitored = bool(self._monitor_every) and "z" in outputs
        if monitored and not self._warm:  # compiles now, not in the middle of a run
            with self._meter.pause():
                jax.block_until_ready(self._diagnose(outputs["z"], outputs.get("h")))
            self._warm = True
        diagnosed = {}
        if monitored and step % self._monitor_every == 0:
            diagnosed = self._diagnose(outputs["z"], outputs.get("h"))
        if step % self._log_every == 0 or step == self._total or diagnosed:
            self._due = step, values, diagnosed

    def flush(self) -> None:
        """Writes what is due.

        Raises:
          NonFiniteLossError: a loss up to it was not finite.
        """
        if self._due is None:
            return
        (step, values, diagnosed), self._due = self._due, None
        self.check_losses(step)
        row = {f"train/{name}": value for name, value in _to_host(values).items()}
        row |= {f"train/{name}": rate for name, rate in self._rates(step - 1).items()}
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

    def check_losses(self, up_to: int | None = None) -> None:
        """Looks at the losses not yet looked at, up to a step; default all.

        Raises:
          NonFiniteLossError: one of them was not finite.
        """
        now = [pair for pair in self._losses if up_to is None or pair[0] <= up_to]
        self._losses = self._losses[len(now) :]
        for (step, _), loss in zip(now, jax.device_get([loss for _, loss in now]), strict=True):
            if not math.isfinite(loss):
                raise NonFiniteLossError(
                    f"the loss is {float(loss)} at step {step}; lower optimizer.base_lr, lengthen "
                    "the warm-up or set optimizer.clip.norm. The last good checkpoint is kept"
                )

    def evaluation(self, step: int, values: dict[str, float]) -> None:
        """Logs the metrics of evaluations at `step`, and prints those that are shown."""
        self._writer.write(step, {f"eval/{name}": value for name, value in values.items()})
        described = {name: evals.describe(name, self._section) for name in values}
        shown = "  ".join(
            f"{name} {metric.with_unit(values[name])}"
            for name, metric in described.items()
            if metric is not None and metric.shown
        )
        self._bar.message(f"step {step}: {shown}")


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
