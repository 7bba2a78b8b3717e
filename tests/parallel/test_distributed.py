"""Start-up by environment, and two real processes over loopback."""

import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import parallel
from ssl_jax.checkpoint import Checkpointer
from ssl_jax.core.errors import UserError
from ssl_jax.parallel import distributed

LAUNCHER = pathlib.Path(__file__).parents[2] / "launch" / "multiprocess_local.py"


@pytest.mark.parametrize(
    "environ, expected",
    [
        ({}, False),
        ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234"}, True),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, False),  # batch script
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "8"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"MEGASCALE_NUM_SLICES": "2"}, True),
        ({"MEGASCALE_NUM_SLICES": "1"}, False),
    ],
)
def test_detection(environ, expected):
    assert distributed.is_multi_process(environ) is expected


def test_detection_of_tpu_workers(monkeypatch):
    assert distributed._tpu_workers({"TPU_WORKER_HOSTNAMES": "t-0.svc,t-1.svc"}) == 2
    assert distributed._tpu_workers({"TPU_WORKER_HOSTNAMES": "localhost"}) == 1
    assert distributed._tpu_workers({}) == 1
    monkeypatch.setattr(distributed.glob, "glob", lambda _: ["/dev/accel0"])
    assert distributed._tpu_workers({"TPU_SKIP_MDS_QUERY": "1"}) == 1
    # Port 9 (discard) of this machine has no metadata server behind it.
    assert distributed._tpu_workers({"GCE_METADATA_IP": "127.0.0.1:9"}) == 1


def test_nothing_to_join(monkeypatch):
    for name in distributed._EXPLICIT:
        monkeypatch.delenv(name, raising=False)
    assert parallel.initialize() is False
    assert not jax.distributed.is_initialized()


def test_incomplete_environment(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.delenv("JAX_PROCESS_ID", raising=False)
    monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
    with pytest.raises(UserError, match="JAX_COORDINATOR_ADDRESS and JAX_PROCESS_ID not set"):
        parallel.initialize()
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("JAX_PROCESS_ID", "first")
    with pytest.raises(UserError, match="JAX_PROCESS_ID='first': both must be integers"):
        parallel.initialize()


def test_one_process_agrees_with_itself():
    assert parallel.any_process(True) is True
    assert parallel.any_process(False) is False
    assert parallel.from_first_process([3, 5]) == [3, 5]
    np.testing.assert_array_equal(parallel.from_all_processes([3, 5]), [[3, 5]])
    parallel.barrier("test")


PROLOGUE = """
    import os, resource, signal, sys, time
    asked_to_stop = []
    signal.signal(signal.SIGTERM, lambda *_: asked_to_stop.append(True))
    from ssl_jax import parallel
    assert parallel.initialize()
    import jax, jax.numpy as jnp, numpy as np
    from ssl_jax.checkpoint import Checkpointer, CheckpointError
    rank = jax.process_index()
    assert jax.process_count() == 2

    def init(key):
        params = {"w": jax.random.normal(key, (64, 48)), "b": jnp.zeros(3)}
        return {"params": params, "opt_state": {"mu": params}, "step": jnp.int32(5)}
"""


def start(script, *arguments, devices=2):
    code = textwrap.dedent(PROLOGUE) + textwrap.dedent(script)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    options = [f"--devices_per_process={devices}", "--timeout=100"]
    return subprocess.Popen(
        [sys.executable, str(LAUNCHER), *options, "--", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes(tmp_path):
    process = start(
        """
        # Agreement.
        assert parallel.any_process(rank == 1) and not parallel.any_process(False)
        assert parallel.from_first_process([7, 8] if rank == 0 else [1]) == [7, 8]
        assert parallel.from_first_process([] if rank == 0 else [1]) == []
        assert parallel.from_all_processes([rank, 7]).tolist() == [[0, 7], [1, 7]]
        assert parallel.text_from_first_process("ä" if rank == 0 else "x") == "ä"
        assert parallel.text_from_first_process("" if rank == 0 else "x") == ""
        parallel.barrier("here")

        # Batches, on meshes whose batch axes, or whose tensor axis, span the processes.
        batch = np.arange(16 * 3, dtype=np.int32).reshape(16, 3)
        for sizes, rows in [({}, 8), ({"fsdp": 2}, 8), ({"data": 1, "fsdp": 1, "tensor": 4}, 16)]:
            mesh = parallel.make_mesh(**sizes)
            mine = parallel.local_rows(mesh, 16)
            assert len(mine) == rows
            arrays = parallel.to_global({"x": batch[mine]}, mesh, mine, 16)
            assert not arrays["x"].is_fully_addressable
            assert int(jax.jit(jnp.sum)(arrays["x"])) == batch.sum()
            np.testing.assert_array_equal(parallel.gather(arrays)["x"], batch)
        scattered = jax.sharding.Mesh(
            np.array(jax.devices())[[0, 2, 1, 3]].reshape(4, 1, 1), ("data", "fsdp", "tensor")
        )
        mine = parallel.local_rows(scattered, 16)
        assert mine.tolist() == [i for i in range(16) if i // 4 % 2 == rank]
        arrays = parallel.to_global(batch[mine], scattered, mine, 16)
        np.testing.assert_array_equal(parallel.gather(arrays), batch)

        # A sharded state: save, restore, damage.
        mesh = parallel.make_mesh(fsdp=4)
        state, shardings = parallel.init_sharded(init, jax.random.PRNGKey(0), mesh=mesh, min_size=1)
        assert not state["params"]["w"].is_fully_addressable
        before = parallel.gather(state)
        with Checkpointer(sys.argv[1]) as checkpointer:
            assert checkpointer.restore(state) is None
            checkpointer.save(1, state)
            checkpointer.save(2, jax.tree.map(lambda x: x * 2, state))
        parallel.barrier("saved")
        if rank == 0:
            directory = checkpointer.directory / "2" / "state" / "ocdbt.process_1" / "d"
            path = max(directory.iterdir(), key=lambda path: path.stat().length)
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])
        parallel.barrier("damaged")
        with Checkpointer(sys.argv[1]) as checkpointer:
            restored, step = checkpointer.restore(state)
            assert step == 1
            for a, b in zip(*map(jax.tree.leaves, (parallel.gather(restored), before))):
                np.testing.assert_array_equal(a, b)
            parts, _ = checkpointer.restore_parameters()
            np.testing.assert_array_equal(parts["params"]["w"], before["params"]["w"])
            checkpointer.save(3, restored, wait=True)
            assert checkpointer.all_steps() == [1, 3]
        print("done")
        """,
        tmp_path,
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert {"[0] done", "[1] done"} <= set(out.splitlines())
    assert "falling back to step 1" in err
    # One process with other devices goes on from what two have saved.
    mesh = parallel.make_mesh(fsdp=8)

    def init(key):
        params = {"w": jax.random.normal(key, (64, 48)), "b": jnp.zeros(3)}
        return {"params": params, "opt_state": {"mu": params}, "step": jnp.int32(5)}

    expected, _ = parallel.init_sharded(init, jax.random.PRNGKey(0), mesh=mesh, min_size=1)
    with Checkpointer(tmp_path) as checkpointer:
        state, step = checkpointer.restore(expected)
    assert step == 3
    for leaf, other in zip(*map(jax.tree.leaves, (state, expected)), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-6)


@pytest.mark.slow
def test_full_disk_of_one_process_stops_both(tmp_path):
    process = start(
        """
        mesh = parallel.make_mesh(fsdp=2)
        state, _ = parallel.init_sharded(init, jax.random.PRNGKey(0), mesh=mesh, min_size=1)
        checkpointer = Checkpointer(sys.argv[1])
        checkpointer.save(1, state, wait=True)
        if rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            checkpointer.save(2, state, wait=True)
        except CheckpointError as error:
            print(error)
            sys.exit(1)
        """,
        tmp_path,
        devices=1,
    )
    start_time = time.monotonic()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    errors = sorted(line for line in out.splitlines() if "saving step 2" in line)
    assert errors[0].startswith("[0] saving step 2 to") and "failed: process 1: " in errors[0]
    assert errors[1].startswith("[1] saving step 2 to")
    for line in errors:
        assert line.endswith("File too large; the last checkpoint is step 1")
    assert time.monotonic() - start_time < 60
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.all_steps() == [1]
        assert checkpointer.restore_parameters()[1] == 1


@pytest.mark.slow
def test_leaving_does_not_wait_for_the_others():
    process = start(
        """
        if rank == 1:
            print("an error")
            parallel.leave(1)
        parallel.any_process(True)
        """,
        devices=1,
    )
    start_time = time.monotonic()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "[1] an error" in out.splitlines()
    assert time.monotonic() - start_time < 60


@pytest.mark.slow
def test_signal_handlers_of_the_program_stay():
    process = start(
        """
        print("ready")
        while not parallel.any_process(rank == 0 and bool(asked_to_stop)):
            time.sleep(0.02)
        print("stopped together")
        sys.exit(143)
        """,
        devices=1,
    )
    waited_for = {"[0] ready\n", "[1] ready\n"}
    while waited_for:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        waited_for.discard(line)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert {"[0] stopped together", "[1] stopped together"} <= set(out.splitlines())


@pytest.mark.parametrize(
    "text, lost",
    [
        ("UNKNOWN: [external/gloo/transport/tcp/pair.cc:547] Connection closed by peer", True),
        ("INTERNAL: Gloo all-reduce failed: Read timeout", True),
        ("INTERNAL: NCCL operation ncclGroupEnd() failed: remote process exited", True),
        ("UNAVAILABLE: failed to connect to all addresses", True),
        ("DEADLINE_EXCEEDED: Barrier timed out", True),
        ("RESOURCE_EXHAUSTED: out of memory allocating 9 bytes", False),
        ("INTERNAL: during context [post-optimization]: binary op", False),
        ("INVALID_ARGUMENT: shapes differ", False),
    ],
)
def test_what_tells_that_another_process_is_gone(monkeypatch, text, lost):
    error = jax.errors.JaxRuntimeError(text)
    assert distributed.lost_process(error) is None  # there is no other
    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    assert distributed.lost_process(error) == (text if lost else None)
    saving = RuntimeError("saving step 3 failed")
    saving.__cause__ = error
    assert bool(distributed.lost_process(saving)) is lost
    assert distributed.lost_process(ValueError(text)) is None
