"""Metric rows of a run: written to its workdir, to TensorBoard and W&B, and read back.

Rows are JSON objects, one a line, `{"step": 10, "train/loss": 4.2, ...}`. On a file system they are
appended to `<workdir>/metrics.jsonl`. Objects of a store such as gs:// cannot be appended to. There
the rows go to segments `<workdir>/metrics/<start of the writer>-<number>.jsonl` of bounded size.
Only the last segment is rewritten, so the bytes sent grow linearly with the run. `read_metrics`
reads both forms, also both together if a run has moved.

JSON has no NaN or infinity. A non-finite value is written as `null`, which readers treat as a
missing number; `read_metrics` returns it as `nan`.
"""

from __future__ import annotations

import importlib.util
import json
import math
import numbers
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from absl import logging
from etils import epath

from ssl_jax.core.errors import UserError
from ssl_jax.core.storage import is_object_store, write_whole
from ssl_jax.run import event_files

METRICS_FILE = "metrics.jsonl"
SEGMENTS_DIR = "metrics"
SEGMENT_BYTES = 256 * 1024  # an object is closed once it holds this much
UPLOAD_SECONDS = 30.0  # between two uploads, unless flush() is called

Row = dict[str, Any]


# ---------------------------------------------------------------------------------------- reading


def read_metrics(workdir: epath.PathLike) -> list[Row]:
    """All rows of a workdir, ordered by step; null values become nan.

    An incomplete last line, left by a killed process, is dropped. Any other line that is not a row
    is skipped with a logged warning.
    """
    files = _row_files(epath.Path(workdir))
    rows = [row for path in files for _, row in _lines(path, _bytes(path))]
    # The sort is stable: rows of one step keep the order in which they were written.
    return sorted(rows, key=lambda row: row["step"])


def _bytes(path: epath.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _row_files(workdir: epath.Path) -> list[epath.Path]:
    segments = workdir / SEGMENTS_DIR
    files = sorted(segments.iterdir()) if segments.exists() else []
    files = [file for file in files if file.name.endswith(".jsonl")]
    single = workdir / METRICS_FILE
    return [*files, single] if single.exists() else files


def _lines(path: epath.Path, data: bytes) -> Iterator[tuple[bytes, Row]]:
    """(line with its newline, parsed row) of every whole row in a file's bytes."""
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            row = json.loads(line)
            row["step"] = int(row["step"])
        except (ValueError, TypeError, KeyError):  # UnicodeDecodeError is a ValueError
            if number < len(lines):
                logging.warning("%s:%d is not a metric row; skipped", path, number)
            continue
        yield line + b"\n", {k: math.nan if v is None else v for k, v in row.items()}


def _drop_after(workdir: epath.Path, step: int | None) -> None:
    """Removes rows after `step` (None: keeps all) and incomplete lines.

    Each file is replaced atomically.
    """
    # Last file first: a process killed in between leaves no gap before a remaining row.
    for path in reversed(_row_files(workdir)):
        data = _bytes(path)
        rows = _lines(path, data)
        kept = b"".join(line for line, row in rows if step is None or row["step"] <= step)
        if kept == data:
            continue
        if kept or path.name == METRICS_FILE:
            write_whole(path, kept)
        else:
            path.unlink()


# ---------------------------------------------------------------------------------------- writing


class _Stream(Protocol):
    """A destination to which bytes are appended."""

    def append(self, data: bytes) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class _FileStream:
    """One file. Every record is passed to the kernel at once, so a killed process loses nothing."""

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
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class _ObjectStream:
    """Objects of bounded size; the last one is rewritten as it grows."""

    def __init__(self, path: Callable[[int], epath.Path], header: bytes = b""):
        self._path, self._index, self._header = path, 0, header
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
    if not is_object_store(workdir):
        return _FileStream(workdir / METRICS_FILE)
    # Named by the writer's start, so two writers of one workdir never share a segment.
    began = time.time_ns()
    return _ObjectStream(lambda i: workdir / SEGMENTS_DIR / f"{began}-{i:05d}.jsonl")


class _TensorBoard:
    """TensorBoard event files, written in the calling thread.

    A disk that is full raises its error here. A writer with a thread of its own would block the
    train loop on its queue.
    """

    def __init__(self, directory: epath.Path, purge_step: int | None):
        header = event_files.file_header()
        now = f"{time.time():.6f}.{socket.gethostname()}"
        if is_object_store(directory):
            self._stream: _Stream = _ObjectStream(
                lambda i: directory / f"events.out.tfevents.{now}.{i:05d}", header=header
            )
        else:
            self._stream = _FileStream(directory / f"events.out.tfevents.{now}", header=header)
        if purge_step is not None:
            self._stream.append(event_files.session_start(purge_step))

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        numbers_of = {name: value for name, value in values.items() if not isinstance(value, str)}
        self._stream.append(event_files.scalars(step, numbers_of))

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


class _Wandb:
    """One W&B run per workdir. The workdir keeps its id, so a resumed run continues it."""

    def __init__(self, workdir: epath.Path, settings: Mapping[str, Any], config: Mapping | None):
        import wandb

        id_file = workdir / "wandb_id.txt"
        settings = dict(settings)
        if id_file.exists():
            settings.setdefault("id", id_file.read_text().strip())
        self._run = wandb.init(config=dict(config or {}), resume="allow", **settings)
        id_file.write_text(self._run.id)
        # W&B's own step must not decrease, but resuming decreases it. So our step is a metric.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        self._run.log({"step": step, **values})

    def flush(self) -> None:
        """W&B uploads by itself."""

    def close(self) -> None:
        self._run.finish()


class MetricWriter:
    """Writes metric rows to the workdir and, as configured, to TensorBoard and W&B.

    Only the primary process writes; in other processes every call does nothing. Call `flush` before
    a checkpoint is committed. Then no row up to its step can be lost, also on an object store.

    Args:
      workdir: the run's directory, local or on an object store.
      tensorboard: also write event files to `<workdir>/tensorboard`.
      wandb: keyword arguments of `wandb.init` (`project=...`), or None for no W&B.
      config: the run's config as plain nested dicts, for W&B.
      resume_step: the step the run continues from, 0 for a new start. Later rows are dropped, and
        TensorBoard hides its later events. None appends to the existing rows.
      primary: whether this process writes (`jax.process_index() == 0`).

    Raises:
      UserError: W&B is enabled but not installed. Every process raises it, so none waits for the
        others.
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

        Texts, e.g. `{"warning": "..."}`, are not written to TensorBoard.
        """
        if not self._primary:
            return
        if self._rows is None:
            raise ValueError(f"write at step {step} after close()")
        values = {name: _plain(value) for name, value in values.items()}
        finite = {name: _or_null(value) for name, value in values.items()}
        row = json.dumps({"step": int(step), **finite}, allow_nan=False)
        self._rows.append(row.encode() + b"\n")
        if self._tensorboard:  # opened by the first row: a run without rows has no event file
            board = _TensorBoard(self._workdir / "tensorboard", self._purge_step)
            self._others.append(board)
            self._tensorboard = False
        for other in self._others:
            other.write(int(step), values)

    def flush(self) -> None:
        """Makes every row so far readable by other processes."""
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
