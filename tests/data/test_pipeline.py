"""The stream of batches: the same whoever computes it, and over when it should be."""

import multiprocessing
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import threading
import time

import grain
import numpy as np
import pytest
from PIL import Image

import ssl_jax
from ssl_jax import data
from ssl_jax.core.errors import UserError
from ssl_jax.data import pipeline
from ssl_jax.data.samplers.pk import PK
from ssl_jax.data.samplers.shuffle import Shuffle
from tests.marks import slow_unless

CROPS = {"global": {"count": 2}, "local": {"count": 3, "size": 5, "scale": (0.05, 0.4)}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """110 images of random sizes; three files that are none."""
    root = tmp_path_factory.mktemp("folder")
    rng = np.random.default_rng(0)
    for i in range(107):
        size = (*rng.integers(8, 40, 2), 3)
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(root / f"{i:03}.png")
    for i in range(3):
        (root / f"broken{i}.jpg").write_text("text")
    return f"folder:{root}"


def load(folder, **options):
    return data.load(folder, image_size=8, **options)


def take(source, count, **options):
    with data.batches(source, num_steps=count, **{"seed": 1, **options}) as stream:
        found = list(stream)
    assert len(found) == count
    return found


def assert_same(streams, expected):
    for stream in streams:
        assert len(stream) == len(expected)
        for batch, other in zip(stream, expected, strict=True):
            assert batch.keys() == other.keys()
            for key in batch:
                assert batch[key].dtype == other[key].dtype
                np.testing.assert_array_equal(batch[key], other[key], err_msg=key)


def test_threads_and_processes_give_the_same_stream(folder, monkeypatch):
    monkeypatch.setattr(pipeline, "_CHUNK", 7)  # several chunks a batch, the last one smaller
    sources = [load(folder, host_crops=CROPS) for _ in range(4)]
    options = [{"workers": 0}, {"workers": 0, "prefetch": 5}, {"workers": 2}]
    order = Shuffle().order(110, 36, 1)
    # By hand: the rule of the sampler, and crops that depend on seed, step and row alone.
    by_hand = [sources[3].batch(order.indices(step), seed=1, step=step) for step in range(5)]
    streams = [
        take(source, 5, batch_size=36, **option)
        for source, option in zip(sources, options, strict=False)
    ]
    assert_same(streams, by_hand)
    assert all(type(batch["image/global"]) is np.ndarray for batch in streams[2])
    # What the workers could not read is known here, and in the same order.
    assert list(sources[2].problems) == list(sources[0].problems) == list(sources[3].problems)
    assert len(sources[2].problems) == 3


@pytest.mark.parametrize("name", ["folder", "digits"])
@pytest.mark.parametrize("start", [1, 2, 3, 7])
def test_a_stream_continues_at_any_step(name, start, folder):
    source = load(folder) if name == "folder" else data.load(name, "train[:110]")
    whole = take(source, 8, batch_size=36)  # 3 steps an epoch
    assert_same([take(source, 8 - start, batch_size=36, start_step=start)], whole[start:])


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_the_global_batch_does_not_depend_on_who_makes_its_rows(processes, folder):
    for source in (load(folder, host_crops=CROPS), data.load("digits")):
        expected = take(source, 3, batch_size=36)
        rng = np.random.default_rng(0)
        for rows in (np.arange(36), rng.permutation(36)):
            shares = np.array_split(rows, processes)
            parts = [take(source, 3, batch_size=36, rows=share) for share in shares]
            joined = [
                {key: np.concatenate([batch[key] for batch in step])[np.argsort(rows)]
                 for key in step[0]}
                for step in zip(*parts, strict=True)
            ]  # fmt: skip
            assert_same([joined], expected)


def test_every_epoch_shows_each_example_at_most_once(folder):
    stream = take(load(folder), 6, batch_size=36)
    for epoch in (stream[:3], stream[3:]):
        indices = np.concatenate([batch["index"] for batch in epoch])
        assert len(np.unique(indices)) == 108
    assert (stream[0]["index"] != stream[3]["index"]).any()


def test_a_sampler_gives_the_same_batches_to_every_process():
    """Also in worker processes, to which the order is pickled."""
    source = data.load("digits", "train[:200]")
    options = dict(batch_size=24, seed=3, sampler=PK(examples_per_class=4), start_step=5)
    with data.batches(source, num_steps=6, **options) as stream:
        whole = list(stream)
    parts = []
    for rows in (np.arange(10), np.arange(10, 24)):
        with data.batches(source, num_steps=6, rows=rows, **options) as stream:
            parts.append(list(stream))
    joined = [
        {key: np.concatenate([batch[key] for batch in step]) for key in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same([joined], whole)
    for batch in whole:
        labels = batch["label"].reshape(6, 4)
        assert (labels == labels[:, :1]).all() and len(set(labels[:, 0])) == 6
    order = PK(examples_per_class=4).order(200, 24, 3, source.labels)
    copy = pickle.loads(pickle.dumps(order))
    np.testing.assert_array_equal(copy.indices(40), order.indices(40))


def test_seed_and_step_both_matter():
    source = data.load("digits")
    first = take(source, 2, batch_size=50)
    assert (first[0]["index"] != first[1]["index"]).mean() > 0.8
    assert (first[0]["index"] != take(source, 1, batch_size=50, seed=2)[0]["index"]).mean() > 0.8


def test_crops_depend_on_seed_step_and_row(folder):
    source = load(folder, host_crops=CROPS)
    rows = np.arange(10)

    def crops(rows=rows, family="global", source=source, **where):
        return source.batch(rows, **where)[f"image/{family}"]

    image = crops(seed=1, step=5)
    np.testing.assert_array_equal(crops(seed=1, step=5), image)
    assert (image[:, 0] != image[:, 1]).mean() > 0.5
    for other in (
        {"seed": 2, "step": 5}, {"seed": 1, "step": 6},
        {"seed": 1, "step": 5, "positions": rows + 10},
    ):  # fmt: skip
        assert (crops(**other) != image).mean() > 0.5
    # Which examples its neighbours are does not matter.
    alone = crops(rows[4:5], seed=1, step=5, positions=rows[4:5])
    np.testing.assert_array_equal(alone[0], image[4])
    # Nor is it which other families there are; the streams of two families differ.
    for family in CROPS:
        one = load(folder, host_crops={family: CROPS[family]})
        np.testing.assert_array_equal(
            crops(family=family, source=one, seed=1, step=5), crops(family=family, seed=1, step=5)
        )
    same = load(folder, host_crops={"global": {"count": 2}, "local": {"count": 2}})
    first, second = (crops(family=f, source=same, seed=1, step=5) for f in ("global", "local"))
    assert (first != second).mean() > 0.5


def test_the_order_of_a_stream_is_no_order_of_the_data():
    """Nor are labels, images and indices mixed up on the way."""
    source = data.load("digits")
    for batch in take(source, 3, batch_size=100):
        np.testing.assert_array_equal(batch["label"], source.labels[batch["index"]])
        np.testing.assert_array_equal(batch["image"], source.images[batch["index"]])
        assert (np.diff(batch["index"]) < 0).mean() > 0.3


@pytest.mark.parametrize("workers", slow_unless((0).__eq__, [0, 1]))
def test_an_epoch_in_order_for_evaluation(folder, workers, monkeypatch):
    # As in a container whose /dev/shm is too small for the chunks.
    monkeypatch.setattr(pipeline, "_shared_memory_left", lambda: 1000)
    source = load(folder)
    batches = list(data.epoch_batches(source, 40, workers=workers))
    assert [batch["image"].shape for batch in batches] == [(40, 8, 8, 3)] * 3
    index, mask, label = (
        np.concatenate([batch[key] for batch in batches]) for key in ("index", "mask", "label")
    )
    np.testing.assert_array_equal(index, [*range(110), *[-1] * 10])
    readable = ["broken" not in name for name in source.names]
    np.testing.assert_array_equal(mask, [*readable, *[False] * 10])
    assert mask.dtype == bool and (label == -1).all()
    assert not batches[-1]["image"][30:].any()


def test_an_evaluation_shared_by_processes():
    source = data.load("digits", "test[:10]")
    whole = list(data.epoch_batches(source, 8))
    halves = [list(data.epoch_batches(source, 8, rows=rows)) for rows in np.split(np.arange(8), 2)]
    joined = [
        {key: np.concatenate([half[key] for half in step]) for key in step[0]}
        for step in zip(*halves, strict=True)
    ]
    assert_same([joined], whole)
    # The second process has nothing but padding in the last batch, and still takes part in it.
    assert len(halves[1]) == 2 and not halves[1][1]["mask"].any()


def test_an_evaluation_of_a_subset():
    source = data.load("digits", "test")
    subset = np.array([5, 3, 200])
    (batch,) = data.epoch_batches(source, 4, subset=subset)
    np.testing.assert_array_equal(batch["index"], [5, 3, 200, -1])
    np.testing.assert_array_equal(batch["image"][:3], source.images[subset])


def test_errors(folder):
    digits = data.load("digits", "test")
    with pytest.raises(UserError, match="batch_size 500 is larger than the data set of 359"):
        data.batches(digits, batch_size=500, seed=0)
    for bad in ({"workers": -1}, {"prefetch": 0}, {"start_step": -1}):
        with pytest.raises(UserError, match="must be at least"):
            data.batches(digits, batch_size=5, seed=0, **bad)
    with pytest.raises(ValueError, match="rows reach from 3 to 8 of 8"):
        data.batches(digits, batch_size=8, seed=0, rows=np.arange(3, 9))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_worker_is_an_error_here(folder, workers):
    source = load(folder, strict=True)
    stream = data.epoch_batches(source, 110, workers=workers)
    with pytest.raises(UserError, match=r"unreadable image .*broken\d.jpg") as caught:
        next(stream)
    assert "\n" not in str(caught.value)
    with pytest.raises(StopIteration):  # the stream is over, its workers are gone
        next(stream)
    assert not multiprocessing.active_children()


def test_closing_ends_the_workers(folder):
    stream = data.batches(load(folder), batch_size=20, seed=0, workers=1)
    next(stream)
    (worker,) = multiprocessing.active_children()
    stream.close()
    stream.close()
    assert not worker.is_alive()
    with pytest.raises(StopIteration):
        next(stream)


def test_closing_while_another_thread_waits(folder):
    stream = data.batches(load(folder), batch_size=20, seed=0)
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(stream))
    thread.start()
    time.sleep(0.3)
    stream.close()
    thread.join(timeout=10)
    assert not thread.is_alive() and seen


def test_no_stall_at_every_worker(monkeypatch):
    """Each worker holds finished chunks, together `prefetch` batches, so that the stream flows."""
    options = []

    def record(**values):
        options.append(values)
        return grain_options(**values)

    grain_options = grain.MultiprocessingOptions
    monkeypatch.setattr(grain, "MultiprocessingOptions", record)
    source = data.load("shapes", num_generated=300)
    for rows, workers, prefetch in ((10, 4, 1), (300, 2, 2), (300, 3, 1)):
        plan = pipeline._Training(Shuffle().order(300, rows, 0), np.arange(rows), 0)
        pipeline._start(source, plan, 0, 5, workers, prefetch)
        held = options[-1]["per_worker_buffer_size"]
        assert options[-1]["num_workers"] == workers and held >= 1
        assert held * workers >= -(-rows // pipeline._CHUNK) * prefetch


def test_the_estimate_of_shared_memory_counts_all_crops(folder):
    source = load(folder, host_crops=CROPS)
    batch = source.batch(np.arange(4))
    assert {"image/global", "image/local"} <= set(batch)
    total = sum(array.nbytes for array in batch.values())
    assert pipeline._bytes_per_example(source) * 4 == total


PROGRAM = """
import os, signal, sys, time
from absl import app, flags
from ssl_jax import data

flags.DEFINE_integer("seconds", 0, "")

def main(argv):
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: None)
    source = data.load(argv[1], image_size=8)
    global stream  # it lives until the interpreter ends
    stream = data.batches(source, batch_size=20, seed=0, workers=1)
    next(stream)
    import multiprocessing
    print(multiprocessing.active_children()[0].pid, flush=True)
    end = time.time() + flags.FLAGS.seconds
    while time.time() < end:
        next(stream)
        time.sleep(0.01)
    print("fine", flush=True)
    raise SystemExit(7)

if __name__ == "__main__":
    app.run(main)
"""


def start(tmp_path, folder, seconds):
    """A program that trains with one worker for some time, and that worker's process id."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    root = str(pathlib.Path(ssl_jax.__file__).parents[1])
    program = subprocess.Popen(
        [sys.executable, str(script), f"--seconds={seconds}", folder],
        stdout=subprocess.PIPE, stderr=(tmp_path / "errors").open("w"), text=True,
        start_new_session=True, env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    return program, int(program.stdout.readline())


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


linux_only = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="reads /proc")


@pytest.mark.slow
@linux_only
def test_a_program_may_end_in_the_middle_of_a_stream(tmp_path, folder):
    """Without closing it: no hang, no worker left, no complaint from anyone."""
    program, worker = start(tmp_path, folder, 0)
    assert program.stdout.read() == "fine\n"
    assert program.wait(timeout=60) == 7
    errors = (tmp_path / "errors").read_text()
    assert "Traceback" not in errors and "leaked" not in errors, errors
    assert not is_alive(worker)


@pytest.mark.slow
@linux_only
def test_workers_outlive_signals_but_not_their_parent(tmp_path, folder):
    """A signal to the whole process group leaves the stream running until the program has saved;
    after kill -9 no worker stays behind."""
    program, worker = start(tmp_path, folder, 60)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.killpg(program.pid, number)
        time.sleep(0.5)
    assert program.poll() is None and is_alive(worker)
    program.kill()
    program.wait(timeout=30)
    deadline = time.time() + 20
    while is_alive(worker) and time.time() < deadline:
        time.sleep(0.1)
    assert not is_alive(worker)


@pytest.mark.slow
def test_workers_leave_the_accelerators_alone():
    """They set JAX to the CPU before it can look for devices."""
    code = (
        "import os, jax; os.environ.pop('XLA_FLAGS', None);"
        "from ssl_jax.data import pipeline;"
        "pipeline._follow_parent = lambda: None; pipeline._init_worker(0, 1);"
        "assert jax.config.jax_platforms == 'cpu' == os.environ['JAX_PLATFORMS']"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "tpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
