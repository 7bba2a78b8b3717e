"""What a run tells while it trains: metric rows, TensorBoard and W&B, a progress bar, throughput.

Rows are JSON objects, one a line, `{"step": 10, "train/loss": 4.2, ...}`. On a file system they are
appended to `<workdir>/metrics.jsonl`. Objects of a store such as gs:// cannot be appended to, so
there the rows go to segments `<workdir>/metrics/00000.jsonl, 00001.jsonl, ...`, of which only the
last, bounded one is ever rewritten: the bytes sent grow linearly with the run. `read_metrics` reads
either, or both where a run has moved between the two.

JSON knows no NaN or infinity. A non-finite value is written as `null`, which every JSON reader takes
for a missing number, and `read_metrics` gives it back as `nan`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import math
import numbers
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from absl import logging
from etils import epath
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ssl_jax.errors import UserError

METRICS_FILE = "metrics.jsonl"
SEGMENTS_DIR = "metrics"
SEGMENT_BYTES = 256 * 1024  # an object is closed once it holds this much
UPLOAD_SECONDS = 30.0  # between two uploads, unless flush() asks for one

Row = dict[str, Any]


def _is_object_store(path: epath.Path) -> bool:
    return "://" in os.fspath(path)


# ---------------------------------------------------------------------------------------- reading


def read_metrics(workdir: epath.PathLike) -> list[Row]:
    """All rows of a workdir in the order of their steps; null values come back as nan.

    A last line torn by a killed process is dropped. Any other line that is no row is skipped with a
    logged warning.
    """
    rows = [row for path in _row_files(epath.Path(workdir)) for _, row in _lines(path)]
    # Stable: rows of one step keep the order in which they were written.
    return sorted(rows, key=lambda row: row["step"])


def _row_files(workdir: epath.Path) -> list[epath.Path]:
    segments = workdir / SEGMENTS_DIR
    files = sorted(segments.glob("*.jsonl")) if segments.exists() else []
    single = workdir / METRICS_FILE
    return [*files, single] if single.exists() else list(files)


def _lines(path: epath.Path) -> Iterator[tuple[bytes, Row]]:
    """(line with its newline, parsed row) of every whole row of a file."""
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            row = json.loads(line)
            row["step"] = int(row["step"])
        except (ValueError, TypeError, KeyError):  # UnicodeDecodeError is a ValueError
            if number < len(lines):
                logging.warning("%s:%d is no metric row; skipped", path, number)
            continue
        yield line + b"\n", {k: math.nan if v is None else v for k, v in row.items()}


def _drop_after(workdir: epath.Path, step: int | None) -> None:
    """Removes rows past `step` (None: none) and torn lines, each file in one atomic replacement."""
    # Backwards, so that a process killed on the way leaves no later row behind an earlier gap.
    for path in reversed(_row_files(workdir)):
        kept = b"".join(line for line, row in _lines(path) if step is None or row["step"] <= step)
        if kept == path.read_bytes():
            continue
        if kept or path.name == METRICS_FILE:
            _replace(path, kept)
        else:
            path.unlink()


def _replace(path: epath.Path, data: bytes) -> None:
    if _is_object_store(path):  # an object appears whole or not at all
        path.write_bytes(data)
        return
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


# ---------------------------------------------------------------------------------------- writing


class _Stream(Protocol):
    """Where bytes are appended to."""

    def append(self, data: bytes) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class _FileStream:
    """One file; every record reaches the kernel at once, so that only the machine can lose it."""

    def __init__(self, path: epath.Path, header: bytes = b""):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        if header:
            self.append(header)

    def append(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _ObjectStream:
    """Bounded objects, of which the last is rewritten as it grows."""

    def __init__(self, path: Callable[[int], epath.Path], first: int = 0, header: bytes = b""):
        self._path, self._index, self._header = path, first, header
        self._data = bytearray(header)
        self._dirty = False
        self._uploaded = time.monotonic()

    def append(self, data: bytes) -> None:
        self._data += data
        self._dirty = True
        full = len(self._data) >= SEGMENT_BYTES
        if full or time.monotonic() - self._uploaded >= UPLOAD_SECONDS:
            self.flush()
        if full:
            self._index += 1
            self._data = bytearray(self._header)

    def flush(self) -> None:
        if self._dirty:
            path = self._path(self._index)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(self._data))
            self._dirty = False
        self._uploaded = time.monotonic()

    def close(self) -> None:
        self.flush()


def _open_rows(workdir: epath.Path) -> _Stream:
    if not _is_object_store(workdir):
        return _FileStream(workdir / METRICS_FILE)
    segments = workdir / SEGMENTS_DIR
    taken = [int(path.stem) for path in _row_files(workdir) if path.stem.isdigit()]
    return _ObjectStream(lambda i: segments / f"{i:05d}.jsonl", first=max(taken, default=-1) + 1)


class _TensorBoard:
    """TensorBoard event files, written in the calling thread.

    tensorboardX's own SummaryWriter hands events to a thread through a bounded queue: once that
    thread has died of a full disk, the train loop would block on the queue. Here the error is
    raised where it happens. Only its protocol buffers and checksum are used.
    """

    def __init__(self, directory: epath.Path, purge_step: int | None):
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        start = Event(wall_time=time.time(), file_version="brain.Event:2")
        header = _record(start)
        now = f"{time.time():.6f}.{socket.gethostname()}"
        if _is_object_store(directory):
            self._stream: _Stream = _ObjectStream(
                lambda i: directory / f"events.out.tfevents.{now}.{i:05d}", header=header
            )
        else:
            self._stream = _FileStream(directory / f"events.out.tfevents.{now}", header=header)
        if purge_step is not None:  # TensorBoard then hides events of that step and later ones
            log = SessionLog(status=SessionLog.START)
            self._stream.append(_record(Event(wall_time=time.time(), step=purge_step,
                                              session_log=log)))  # fmt: skip

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        summary = Summary(
            value=[
                Summary.Value(tag=name, simple_value=value)
                for name, value in values.items()
                if not isinstance(value, str)
            ]
        )
        self._stream.append(_record(Event(wall_time=time.time(), step=step, summary=summary)))

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


def _record(event: Any) -> bytes:
    """An event in TFRecord framing: length, its checksum, the bytes, their checksum."""
    from tensorboardX.record_writer import masked_crc32c

    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return b"".join((length, struct.pack("<I", masked_crc32c(length)),
                     data, struct.pack("<I", masked_crc32c(data))))  # fmt: skip


class _Wandb:
    """One W&B run a workdir: its id is kept there, so that a resumed run goes on in the same one."""

    def __init__(self, workdir: epath.Path, settings: Mapping[str, Any], config: Mapping | None):
        import wandb

        id_file = workdir / "wandb_id.txt"
        settings = dict(settings)
        if id_file.exists():
            settings.setdefault("id", id_file.read_text().strip())
        self._run = wandb.init(config=dict(config or {}), resume="allow", **settings)
        id_file.write_text(self._run.id)
        # W&B's own step may not go back, which it does when a run resumes; ours is a metric.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        self._run.log({"step": step, **values})

    def flush(self) -> None:
        """W&B uploads by itself."""

    def close(self) -> None:
        self._run.finish()


class MetricWriter:
    """Writes metric rows to the workdir, and to TensorBoard and W&B when asked.

    Only the primary process writes; elsewhere every call is a no-op. Call `flush` before a
    checkpoint is committed: then no row up to its step can be lost, on an object store either.

    Args:
      workdir: the run's directory, local or on an object store.
      tensorboard: also write event files to `<workdir>/tensorboard`.
      wandb: keyword arguments of `wandb.init` (`project=...`), or None for no W&B.
      config: the run's config as plain nested dicts, for W&B.
      resume_step: the step the run continues from, 0 where it starts over: rows past it are
        dropped, TensorBoard is told to hide its later events. None appends to whatever there is.
      primary: whether this process writes (`jax.process_index() == 0`).

    Raises:
      UserError: W&B is asked for but not installed (on every process, so that none is left waiting).
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        tensorboard: bool = True,
        wandb: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        resume_step: int | None = None,
        primary: bool = True,
    ):
        if wandb is not None and importlib.util.find_spec("wandb") is None:
            raise UserError(
                "W&B logging is on but wandb is not installed; pip install 'ssl_jax[wandb]' "
                "or set --config.log.wandb=False"
            )
        self._workdir = epath.Path(workdir)
        self._primary = primary
        self._tensorboard = tensorboard
        self._purge_step = None if resume_step is None else resume_step + 1
        self._rows: _Stream | None = None
        self._others: list[_TensorBoard | _Wandb] = []
        if not primary:
            return
        self._workdir.mkdir(parents=True, exist_ok=True)
        _drop_after(self._workdir, resume_step)
        self._rows = _open_rows(self._workdir)
        if wandb is not None:
            self._others.append(_Wandb(self._workdir, wandb, config))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends one row. Values are numbers (Python, NumPy or 0-d arrays) or short texts.

        Texts, e.g. `{"warning": "..."}`, stay out of TensorBoard.
        """
        if not self._primary:
            return
        if self._rows is None:
            raise ValueError(f"write at step {step} after close()")
        values = {name: _plain(value) for name, value in values.items()}
        finite = {name: _or_null(value) for name, value in values.items()}
        row = json.dumps({"step": int(step), **finite}, allow_nan=False)
        self._rows.append(row.encode() + b"\n")
        if self._tensorboard:  # opened by the first row: a run that has none leaves no event file
            board = _TensorBoard(self._workdir / "tensorboard", self._purge_step)
            self._others.append(board)
            self._tensorboard = False
        for other in self._others:
            other.write(int(step), values)

    def flush(self) -> None:
        """Makes every row so far readable by others."""
        for stream in self._open():
            stream.flush()

    def close(self) -> None:
        """Flushes and closes; closing twice is fine."""
        for stream in self._open():
            stream.close()
        self._rows, self._others = None, []

    def _open(self) -> list[_Stream | _TensorBoard | _Wandb]:
        return [*([self._rows] if self._rows else []), *self._others]

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _plain(value: Any) -> float | int | str:
    if isinstance(value, str):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _or_null(value: float | int | str) -> float | int | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ------------------------------------------------------------------------------------- throughput


class Throughput:
    """Speed since the last measurement, and where the time went.

        with meter.data_wait():
            batch = next(batches)
        state, metrics = train_step(state, batch)
        if step % every == 0:
            metrics = jax.device_get(metrics)   # waits for the device: the interval is real time
            metrics |= meter.measure(step)

    Args:
      batch_size: global batch, images a step.
      start_step: the step the loop starts from.
      flops_per_step: model FLOPs of one step over all devices, if known.
      peak_flops: FLOP/s the devices could do together; with `flops_per_step` this gives the MFU.
      clock: seconds, monotonic.
    """

    def __init__(
        self,
        batch_size: int,
        *,
        start_step: int = 0,
        flops_per_step: float | None = None,
        peak_flops: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._batch_size = batch_size
        self._flops, self._peak = flops_per_step, peak_flops
        self._clock = clock
        self._step, self._since = start_step, clock()
        self._waited = self._paused = 0.0

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
        """Time inside (probes, checkpoints) does not count at all."""
        began = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - began

    def measure(self, step: int) -> dict[str, float]:
        """Speed from the last call (or the start) to `step`; starts the next interval.

        Returns:
          `train/images_per_s` and `train/steps_per_s`; `train/data_wait`, the share of the time in
          [0, 1]; `train/mfu` in [0, 1] where FLOPs and peak are known. Empty if no step was made.
        """
        now = self._clock()
        seconds = max(now - self._since - self._paused, 1e-9)
        steps = step - self._step
        waited = self._waited
        self._step, self._since = step, now
        self._waited = self._paused = 0.0
        if steps <= 0:
            return {}
        speed = steps / seconds
        out = {
            "train/images_per_s": speed * self._batch_size,
            "train/steps_per_s": speed,
            "train/data_wait": min(waited / seconds, 1.0),
        }
        if self._flops and self._peak:
            out["train/mfu"] = speed * self._flops / self._peak
        return out


# ----------------------------------------------------------------------------------- progress bar


@dataclasses.dataclass(frozen=True)
class _Shown:
    """A metric in the bar: the first of `names` that the row has, as `form` formats it."""

    names: tuple[str, ...]
    form: Callable[[float], str]


_SHOWN = (
    _Shown(("train/loss",), lambda v: f"loss {v:.4g}"),
    _Shown(("train/contrastive_accuracy", "train/accuracy"), lambda v: f"acc {v:.1%}"),
    _Shown(("train/images_per_s",), lambda v: f"{_thousands(v)} img/s"),
    _Shown(("train/data_wait",), lambda v: f"data {v:.0%}"),
    _Shown(("train/mfu",), lambda v: f"MFU {v:.1%}"),
)


class ProgressBar:
    """Progress on a terminal, plain lines elsewhere; drawn only when `update` is called.

    No thread refreshes it: between two updates it costs the step loop nothing.

        with ProgressBar(total_steps, start_step) as bar:
            ...
            bar.update(step, metrics)
            bar.message("checkpoint 500 saved")

    Args:
      total_steps: length of the run.
      start_step: the step it starts or resumes from.
      console: where to draw; standard output by default.
      line_seconds: off a terminal, the least time between two lines (the last step's is always
        printed), so that the log of a fast run stays readable. 0 prints every update.
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
        self._console = console or Console()
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
        """Shows `step` steps done, with the metrics it knows of those given."""
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
        """Prints a line of its own: above the bar, or among the lines."""
        if self._primary:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leaves the bar as it last was; closing twice is fine."""
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
        """Seconds to go at the average pace so far, probes and checkpoints included."""
        now = self._clock()
        if self._first is None:
            self._first = (step, now)
        # From the first update on: the interval before it holds the compilation.
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
