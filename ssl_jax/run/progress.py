"""Throughput of a run, and its progress as a bar or as plain log lines."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ssl_jax.core.console import make_console
from ssl_jax.modalities.image import IMAGE
from ssl_jax.modalities.registry import MODALITIES


class Throughput:
    """Measures the speed since the last measurement, and the share of time spent on data.

        with meter.data_wait():
            batch = next(batches)
        state, metrics = train_step(state, batch)
        if step % every == 0:
            metrics = jax.device_get(metrics)   # waits for the device: the interval is real time
            metrics |= meter.measure(step)

    Args:
      batch_size: global batch, examples a step.
      metric: name of the throughput; see `ssl_jax.modalities`.
      units: units of the throughput per example (1 for images; tokens for text), without padding.
      start_step: the step the loop starts from.
      flops_per_step: model FLOPs of one step, if known.
      peak_flops: peak FLOP/s; with `flops_per_step` it gives the MFU. Both count one device, or
        both count all devices.
      clock: seconds, monotonic.
    """

    def __init__(
        self,
        batch_size: int,
        *,
        metric: str = IMAGE.throughput_metric,
        units: float = 1.0,
        start_step: int = 0,
        flops_per_step: float | None = None,
        peak_flops: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._name, self._per_step = metric, batch_size * units
        self._flops, self._peak = flops_per_step, peak_flops
        self._clock = clock
        self._step, self._since = start_step, clock()
        self._waited = self._paused = 0.0
        self._pause_began: float | None = None

    @contextlib.contextmanager
    def data_wait(self) -> Iterator[None]:
        """Time inside counts as waiting for data."""
        began = self._clock()
        try:
            yield
        finally:
            self._waited += self._clock() - began

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time inside (evaluations, checkpoints) is not measured."""
        self._pause_began = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - self._pause_began
            self._pause_began = None

    def measure(self, step: int) -> dict[str, float]:
        """Speed from the last call (or the start) to `step`; starts the next interval.

        Returns:
          The throughput, such as `train/images_per_s`; `train/steps_per_s`; `train/data_wait`, a
          share of the time in [0, 1]; and `train/mfu` in [0, 1] if FLOPs and peak are known. Empty
          if no step was made.
        """
        now = self._clock()
        if self._pause_began is not None:  # the elapsed part of a pause belongs to this interval
            self._paused += now - self._pause_began
            self._pause_began = now
        seconds = max(now - self._since - self._paused, 1e-9)
        steps = step - self._step
        waited = self._waited
        self._step, self._since = step, now
        self._waited = self._paused = 0.0
        if steps <= 0:
            return {}
        speed = steps / seconds
        out = {
            self._name: speed * self._per_step,
            "train/steps_per_s": speed,
            "train/data_wait": min(waited / seconds, 1.0),
        }
        if self._flops and self._peak:
            out["train/mfu"] = speed * self._flops / self._peak
        return out


@dataclasses.dataclass(frozen=True)
class _Shown:
    """A metric in the bar: the first of `names` that the row has, formatted by `form`."""

    names: tuple[str, ...]
    form: Callable[[float], str]


_SHOWN = (
    _Shown(("train/loss",), lambda v: f"loss {v:.4g}"),
    _Shown(("train/contrastive_accuracy", "train/accuracy"), lambda v: f"acc {v:.1%}"),
    *(
        _Shown(
            (modality.throughput_metric,),
            lambda v, unit=modality.short_unit: f"{_thousands(v)} {unit}/s",
        )
        for modality in MODALITIES.values()
    ),
    _Shown(("train/data_wait",), lambda v: f"data {v:.0%}"),
    _Shown(("train/mfu",), lambda v: f"MFU {v:.1%}"),
)


class ProgressBar:
    """A progress bar on a terminal, plain lines elsewhere; drawn only when `update` is called.

    No thread refreshes the bar, so it costs nothing between two updates.

        with ProgressBar(total_steps, start_step) as bar:
            ...
            bar.update(step, metrics)
            bar.message("checkpoint 500 saved")

    Args:
      total_steps: length of the run.
      start_step: the step it starts or resumes from.
      console: where to draw; standard output by default.
      line_seconds: off a terminal, the least time between two lines, which keeps the log of a fast
        run readable. The line of the last step is always printed. 0 prints every update.
      primary: whether this process shows anything.
      clock: seconds, monotonic.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        *,
        console: Console | None = None,
        line_seconds: float = 5.0,
        primary: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total, self._start = total_steps, start_step
        self._console = console or make_console()
        self._line_seconds = line_seconds
        self._primary = primary
        self._clock = clock
        self._first: tuple[int, float] | None = None  # step and time of the first update
        self._began = clock()
        self._last_line = -math.inf
        self._progress: Progress | None = None
        if primary and self._console.is_terminal:
            self._progress = Progress(
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[text]}", markup=False),
                console=self._console,
                auto_refresh=False,
            )
            self._task = self._progress.add_task(
                "", total=total_steps, completed=start_step, text="compiling"
            )
            self._progress.start()
            self._progress.refresh()

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows that `step` steps are done, with the metrics of `_SHOWN`."""
        if not self._primary:
            return
        text = self._text(step, metrics)
        if self._progress is not None:
            self._progress.update(self._task, completed=step, text=text)
            self._progress.refresh()
            return
        now = self._clock()
        if step >= self._total or now - self._last_line >= self._line_seconds:
            self._last_line = now
            self.message(text)

    def message(self, text: str) -> None:
        """Prints a separate line: above the bar, or between the other lines."""
        if self._primary:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Stops the bar and leaves it on the screen; closing twice is fine."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _text(self, step: int, metrics: Mapping[str, float]) -> str:
        parts = [f"step {step}/{self._total}"]
        for shown in _SHOWN:
            name = next((name for name in shown.names if name in metrics), None)
            if name is not None:
                parts.append(shown.form(float(metrics[name])))
        remaining = self._remaining(step)
        if remaining is not None:
            parts.append(f"ETA {_duration(remaining)}")
        return "  ".join(parts)

    def _remaining(self, step: int) -> float | None:
        """Remaining seconds at the average speed so far, evaluations and checkpoints included."""
        now = self._clock()
        if self._first is None:
            self._first = (step, now)
        # Counts from the first update: the interval before it contains the compilation.
        step0, time0 = self._first if step > self._first[0] else (self._start, self._began)
        if step <= step0:
            return None
        return (self._total - step) * (now - time0) / (step - step0)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _thousands(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours}:{minutes:02d}:{seconds:02d}" if hours or days else f"{minutes}:{seconds:02d}"
    return f"{days}d {clock}" if days else clock
