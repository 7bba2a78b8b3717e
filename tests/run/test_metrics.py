"""Metric rows: what is written is what is read, through kills, resumes and object stores."""

import json
import math
import sys
import types

import fsspec.implementations.memory
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from etils.epath import backend as epath_backend

from ssl_jax.core.errors import UserError
from ssl_jax.run import metrics
from ssl_jax.run.metrics import MetricWriter, read_metrics


def write(workdir, steps, **kwargs):
    kwargs.setdefault("tensorboard", False)
    with MetricWriter(workdir, **kwargs) as writer:
        for step in steps:
            writer.write(step, {"train/loss": step / 10})


def steps_of(workdir):
    return [row["step"] for row in read_metrics(workdir)]


class StoreFileSystem(fsspec.implementations.memory.MemoryFileSystem):
    """An object store: whole objects only, and it counts what is sent."""

    protocol = ("gcs", "gs")
    store = {}  # noqa: RUF012 (the parent's are class attributes too)
    pseudo_dirs = [""]  # noqa: RUF012
    sent = 0

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("gs://").strip("/")

    def _open(self, path, mode="rb", **kwargs):
        assert mode in ("rb", "wb"), f"objects cannot be opened with {mode}"
        file = super()._open(path, mode=mode, **kwargs)
        if mode == "wb":
            write = file.write

            def counted(data):
                type(self).sent += len(data)
                return write(data)

            file.write = counted
        return file


@pytest.fixture
def bucket(monkeypatch):
    """A gs:// workdir that lives in memory."""
    filesystem = StoreFileSystem(skip_instance_cache=True)
    StoreFileSystem.store.clear()
    StoreFileSystem.sent = 0
    monkeypatch.setenv("EPATH_USE_TF", "false")
    monkeypatch.setattr(
        epath_backend._FileSystemSpecBackend, "_get_filesystem", lambda self, name: filesystem
    )
    return epath.Path("gs://bucket/run")


def test_rows_come_back(tmp_path):
    with MetricWriter(tmp_path / "run", tensorboard=False) as writer:
        writer.write(1, {"train/loss": np.float32(0.1), "epoch": np.int64(3), "note": 'a "b" ü'})
        writer.write(2, {"train/loss": jnp.asarray(2.5)})
    first, second = read_metrics(tmp_path / "run")
    assert first == {"step": 1, "train/loss": float(np.float32(0.1)), "epoch": 3, "note": 'a "b" ü'}
    assert isinstance(first["epoch"], int)
    assert second == {"step": 2, "train/loss": 2.5}


def test_rows_are_on_disk_before_any_flush(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.write(1, {"train/loss": 1.0})
    assert steps_of(tmp_path) == [1]  # as another process sees it, and as kill -9 leaves it
    writer.close()


def test_non_finite_values_are_valid_json(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    raw = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert raw == {"step": 1, "a": None, "b": None, "c": None, "d": 1.0}
    (row,) = read_metrics(tmp_path)
    assert all(math.isnan(row[name]) for name in "abc")
    assert row["d"] == 1.0


@pytest.mark.parametrize(
    "resume_step, kept", [(None, [1, 2, 3]), (2, [1, 2]), (0, []), (9, [1, 2, 3])]
)
def test_resume_drops_later_rows(tmp_path, resume_step, kept):
    write(tmp_path, [1, 2, 3])
    write(tmp_path, [], resume_step=resume_step)
    assert steps_of(tmp_path) == kept


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_torn_last_line(tmp_path, cut):
    write(tmp_path, [1, 2, 3])
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-1][:-cut])  # the newline and `cut` characters are missing
    assert steps_of(tmp_path) == [1, 2]
    write(tmp_path, [3, 4], resume_step=2)
    assert steps_of(tmp_path) == [1, 2, 3, 4]
    for line in file.read_text().splitlines():
        json.loads(line)


def test_whole_last_line_without_newline(tmp_path):
    write(tmp_path, [1, 2])
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-1])
    assert steps_of(tmp_path) == [1, 2]
    write(tmp_path, [3])
    assert steps_of(tmp_path) == [1, 2, 3]


def test_garbage_between_rows_is_skipped(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(
        b'{"step": 1}\n\x00\x00\xff\n[1, 2]\n{"loss": 1}\n{"step": 2}\n'
    )
    assert steps_of(tmp_path) == [1, 2]


def test_dropping_is_atomic(tmp_path, monkeypatch):
    write(tmp_path, [1, 2, 3])
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def killed(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(epath.Path(tmp_path)), "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        MetricWriter(tmp_path, tensorboard=False, resume_step=1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_probing_a_run_that_trains_loses_nothing(tmp_path):
    training = MetricWriter(tmp_path, tensorboard=False)
    training.write(1, {"train/loss": 1.0})
    write(tmp_path, [1])  # another process appends
    training.write(2, {"train/loss": 0.5})
    training.close()
    assert steps_of(tmp_path) == [1, 1, 2]


def test_only_the_primary_process_writes(tmp_path):
    write(tmp_path / "run", [1, 2], primary=False, tensorboard=True)
    assert not (tmp_path / "run").exists()
    assert read_metrics(tmp_path / "run") == []


def test_write_after_close(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="step 7 after close"):
        writer.write(7, {})


# ---------------------------------------------------------------------------------- object stores


def test_object_store_round_trip_and_resume(bucket, monkeypatch):
    monkeypatch.setattr(metrics, "SEGMENT_BYTES", 100)
    write(bucket, range(1, 21))
    assert steps_of(bucket) == list(range(1, 21))
    assert len(list((bucket / "metrics").iterdir())) > 3
    write(bucket, range(8, 12), resume_step=7)
    assert steps_of(bucket) == list(range(1, 12))
    write(bucket, [1], resume_step=0)
    assert steps_of(bucket) == [1]


def test_object_store_uploads_only_now_and_then(bucket):
    writer = MetricWriter(bucket, tensorboard=False)
    writer.write(1, {"train/loss": 1.0})
    assert steps_of(bucket) == []
    writer.flush()
    assert steps_of(bucket) == [1]
    writer.write(2, {"train/loss": 1.0})
    writer.close()
    assert steps_of(bucket) == [1, 2]


@pytest.mark.parametrize("tensorboard", [False, True])
def test_object_store_cost_is_linear(bucket, monkeypatch, tensorboard):
    monkeypatch.setattr(metrics, "SEGMENT_BYTES", 500)

    def sent(num_rows):
        before = StoreFileSystem.sent
        with MetricWriter(bucket / str(num_rows), tensorboard=tensorboard) as writer:
            for step in range(num_rows):
                writer.write(step, {"train/loss": 1.0})
                writer.flush()  # the worst case: an upload a row
        return StoreFileSystem.sent - before

    assert sent(400) < 5 * sent(100)  # a rewritten whole would be 16 times as much


def test_two_writers_on_an_object_store(bucket):
    training = MetricWriter(bucket, tensorboard=False)
    training.write(1, {"train/loss": 1.0})
    write(bucket, [1])
    training.write(2, {"train/loss": 1.0})
    training.close()
    assert steps_of(bucket) == [1, 1, 2]


def test_a_run_moved_from_a_store_goes_on_locally(bucket, tmp_path):
    write(bucket, [1, 2, 3])
    for path in (bucket / "metrics").iterdir():
        local = tmp_path / "metrics" / path.name
        local.parent.mkdir(exist_ok=True)
        local.write_bytes(path.read_bytes())
    write(tmp_path, [3, 4], resume_step=2)
    assert steps_of(tmp_path) == [1, 2, 3, 4]


# ------------------------------------------------------------------------------ TensorBoard, W&B


def events(directory):
    """(step, tag, value) and session starts of all event files, framing and checksums checked."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    out = []
    for path in sorted(epath.Path(directory).glob("events.out.tfevents.*")):
        data, at, first = path.read_bytes(), 0, True
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            body = data[at + 12 : at + 12 + size]
            assert int.from_bytes(data[at + 8 : at + 12], "little") == masked_crc32c(
                data[at : at + 8]
            )
            assert int.from_bytes(data[at + 12 + size : at + 16 + size], "little") == (
                masked_crc32c(body)
            )
            event = Event.FromString(body)
            assert (event.file_version == "brain.Event:2") == first
            if event.HasField("session_log"):
                out.append((event.step, "start", event.session_log.status))
            out += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            at, first = at + 16 + size, False
    return out


def test_tensorboard_events(tmp_path):
    with MetricWriter(tmp_path) as writer:
        assert not (tmp_path / "tensorboard").exists()  # lazily
        writer.write(5, {"train/loss": 0.5, "warning": "text stays out"})
        writer.write(6, {"train/loss": math.nan})
    first, second = events(tmp_path / "tensorboard")
    assert first == (5, "train/loss", 0.5)
    assert second[:2] == (6, "train/loss") and math.isnan(second[2])


def test_tensorboard_hides_steps_past_the_resumed_one(tmp_path):
    write(tmp_path, [1, 2, 3], tensorboard=True)
    write(tmp_path, [3], tensorboard=True, resume_step=2)
    steps = [(step, tag) for step, tag, _ in events(tmp_path / "tensorboard")]
    loss = "train/loss"
    assert steps == [(1, loss), (2, loss), (3, loss), (3, "start"), (3, loss)]


def test_tensorboard_on_an_object_store(bucket, monkeypatch):
    monkeypatch.setattr(metrics, "SEGMENT_BYTES", 200)
    write(bucket, range(20), tensorboard=True)
    assert [step for step, _, _ in events(bucket / "tensorboard")] == list(range(20))


def test_wandb_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for primary in (True, False):
        with pytest.raises(UserError, match=r"pip install 'ssl_jax\[wandb\]'"):
            MetricWriter(tmp_path, wandb={"project": "p"}, primary=primary)


def test_wandb_run_continues(tmp_path, monkeypatch):
    calls = []

    class Run:
        def __init__(self, **settings):
            calls.append(settings)
            self.id, self.logged, self.finished = settings.get("id", "abc"), [], False
            self.metrics = []

        def define_metric(self, *args, **kwargs):
            self.metrics.append((args, kwargs))

        def log(self, values):
            self.logged.append(values)

        def finish(self):
            self.finished = True

    runs = []
    module = types.ModuleType("wandb")
    module.__spec__ = types.SimpleNamespace(name="wandb")
    module.init = lambda **settings: runs.append(Run(**settings)) or runs[-1]
    monkeypatch.setitem(sys.modules, "wandb", module)
    write(tmp_path, [3], wandb={"project": "p"}, config={"seed": 1})
    write(tmp_path, [2], wandb={"project": "p"}, resume_step=1)
    assert calls[0] == {"project": "p", "config": {"seed": 1}, "resume": "allow"}
    assert calls[1]["id"] == "abc"
    assert runs[0].logged == [{"step": 3, "train/loss": 0.3}]
    assert runs[0].finished and runs[1].finished
    assert (("*",), {"step_metric": "step"}) in runs[0].metrics
