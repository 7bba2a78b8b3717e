"""What disks, kernels and people do to checkpoints."""

import logging
import os
import random
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
from ssl_jax.checkpoint import Checkpointer, CheckpointError, DamagedCheckpointError

NAMES = ("params/conv/kernel", "params/conv/bias", "opt_state/momentum/conv/kernel", "step")


def make_state(seed):
    mesh = parallel.make_mesh(fsdp=2, devices=jax.devices()[:2])
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal((2, 40, 30), dtype=np.float32)
    state = {
        "params": {"conv": {"kernel": kernel[0], "bias": rng.standard_normal(30)}},
        "opt_state": {"momentum": {"conv": {"kernel": kernel[1]}}},
        "step": np.int32(seed),
    }
    state = jax.tree.map(jnp.asarray, state)
    return jax.device_put(state, parallel.state_shardings(state, mesh, min_size=1))


@pytest.fixture
def workdir(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, make_state(step))
    return tmp_path


def assert_is(state, seed):
    for leaf, expected in zip(*map(jax.tree.leaves, (state, make_state(seed))), strict=True):
        np.testing.assert_array_equal(leaf, expected)


def files(workdir, step):
    return sorted(
        path for path in (workdir / "checkpoints" / str(step)).rglob("*") if path.is_file()
    )


def data_file(workdir, step):
    return max(files(workdir, step), key=lambda path: path.stat().st_size)


def flip(path, position, bit=0):
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def flip_kernel(workdir, step, byte):
    """Flips a bit of params/conv/kernel where its bytes lie, in whichever file that is."""
    kernel = np.asarray(make_state(step)["params"]["conv"]["kernel"])
    found = [
        (path, path.read_bytes().find(kernel[0, :15].tobytes())) for path in files(workdir, step)
    ]
    ((path, position),) = [(path, position) for path, position in found if position >= 0]
    flip(path, position + byte)


def test_flipped_bit_names_the_array_and_falls_back(workdir, caplog):
    flip_kernel(workdir, 2, byte=30)
    like = make_state(0)
    message = r"params/conv/kernel differs from what was saved$"
    with Checkpointer(workdir) as checkpointer:
        with pytest.raises(DamagedCheckpointError, match=message):
            checkpointer.restore(like, step=2)
        with caplog.at_level(logging.WARNING):
            state, step = checkpointer.restore(like)
    assert step == 1
    assert_is(state, 1)
    (record,) = (record for record in caplog.records if record.name.startswith("ssl_jax"))
    assert "/checkpoints/2: params/conv/kernel differs" in record.getMessage()
    assert record.getMessage().endswith("falling back to step 1")
    assert "\n" not in record.getMessage()


def test_flipped_bit_anywhere_is_found_or_harmless(workdir):
    like = make_state(0)
    rng = random.Random(0)
    found = harmless = 0
    for path in files(workdir, 2):
        content = path.read_bytes()
        for position in rng.sample(range(len(content)), min(len(content), 4)):
            flip(path, position, rng.randrange(8))
            # A new object, as a new process would make: it lists and reads everything again.
            with Checkpointer(workdir, best_metric="knn", read_only=True) as checkpointer:
                state, step = checkpointer.restore(like)
            assert_is(state, step)
            found += step == 1
            harmless += step == 2
            path.write_bytes(content)
    assert found >= 20
    assert harmless  # time stamps and the like


@pytest.mark.parametrize("damage", ["truncated", "emptied", "missing"])
def test_no_file_can_be_cut_short(workdir, damage):
    like = make_state(0)
    names = set()
    for path in files(workdir, 2):
        content = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(content[: len(content) // 2 if damage == "truncated" else 0])
        with Checkpointer(workdir, read_only=True) as checkpointer:
            state, step = checkpointer.restore(like)
            assert_is(state, step)
            if step == 1:
                names.add(path.relative_to(workdir / "checkpoints" / "2").parts[0])
        path.write_bytes(content)
    assert names == {"state", "manifest"}


def test_truncated_data_names_an_array(workdir):
    path = data_file(workdir, 2)
    path.write_bytes(path.read_bytes()[:2000])
    with (
        Checkpointer(workdir) as checkpointer,
        pytest.raises(DamagedCheckpointError, match=f"cannot read ({'|'.join(NAMES)}) ") as raised,
    ):
        checkpointer.restore(make_state(0), step=2)
    assert "\n" not in str(raised.value)


def test_training_goes_on_after_a_fall_back(workdir):
    flip(data_file(workdir, 2), 1000)
    with Checkpointer(workdir) as checkpointer:
        _, step = checkpointer.restore(make_state(0))
        assert step == 1
        # The damaged step is written anew, and counts among the latest only then.
        checkpointer.save(2, make_state(22), wait=True)
        checkpointer.save(3, make_state(3), wait=True)
    with Checkpointer(workdir) as checkpointer:
        assert checkpointer.all_steps() == [2, 3]
        assert_is(checkpointer.restore(make_state(0), step=2)[0], 22)


def test_damaged_step_goes_once_a_good_one_is_there(workdir):
    flip(data_file(workdir, 2), 1000)
    with Checkpointer(workdir, keep_latest=1) as checkpointer:
        checkpointer.restore(make_state(0))
    assert (workdir / "checkpoints" / "2").exists()
    with Checkpointer(workdir, keep_latest=1) as checkpointer:
        checkpointer.restore(make_state(0))
        checkpointer.save(1, make_state(1), wait=True)  # is there already
        assert (workdir / "checkpoints" / "2").exists()
        checkpointer.save(5, make_state(5), wait=True)
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["5"]


def test_nothing_good_left(workdir):
    for step in (1, 2):
        flip(data_file(workdir, step), 1000)
    with Checkpointer(workdir) as checkpointer:
        with pytest.raises(
            CheckpointError, match=r"every checkpoint in .* is damaged: .*/2: .*/1: "
        ) as raised:
            checkpointer.restore(make_state(0))
        with pytest.raises(CheckpointError, match="every checkpoint in .* is damaged"):
            checkpointer.restore_parameters(prefixes=("params", "opt_state", "step"))
    assert "\n" not in str(raised.value)


def test_parameters_are_verified_too(workdir):
    flip_kernel(workdir, 2, byte=0)
    with Checkpointer(workdir) as checkpointer:
        _, step = checkpointer.restore_parameters(prefixes=("opt_state",))
        assert step == 2  # what is not read is not judged
        parts, step = checkpointer.restore_parameters()
        assert step == 1
        np.testing.assert_array_equal(
            parts["params"]["conv"]["kernel"], make_state(1)["params"]["conv"]["kernel"]
        )


PROLOGUE = """
    import os, resource, sys
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax, jax.numpy as jnp
    from ssl_jax.checkpoint import Checkpointer, CheckpointError

    def state(step, size=1000):
        return {"params": {f"w{i}": jnp.full((size,), step, jnp.float32) for i in range(20)}}
"""


def start(script, *arguments):
    code = textwrap.dedent(PROLOGUE) + textwrap.dedent(script)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_full_disk(tmp_path):
    process = start(
        """
        checkpointer = Checkpointer(sys.argv[1])
        checkpointer.save(1, state(1), wait=True)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        try:
            checkpointer.save(2, state(2, 100_000))
            checkpointer.wait()
            print("no error")
        except CheckpointError as error:
            print("error:", error)
        print("left:", sorted(os.listdir(checkpointer.directory)))
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        restored, step = checkpointer.restore(state(0))
        print("restored:", step, float(restored["params"]["w3"][0]))
        checkpointer.save(3, state(3), wait=True)
        checkpointer.close()
        print("steps:", checkpointer.all_steps())
        """,
        tmp_path,
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    error, left, restored, steps = out.splitlines()
    assert error.startswith(f"error: saving step 2 to {tmp_path}/checkpoints failed: ")
    assert error.endswith("; the last checkpoint is step 1")
    assert "File too large" in error
    assert left == "left: ['1']"
    assert restored == "restored: 1 1.0"
    assert steps == "steps: [1, 3]"
    assert err == "", "one clear error is enough"


@pytest.mark.slow
def test_kill_during_a_save(tmp_path):
    like = {"params": {f"w{i}": jnp.zeros(20_000) for i in range(20)}}
    rng = random.Random(0)
    committed, steps = 0, tmp_path / "checkpoints"
    for _ in range(3):
        process = start(
            """
            checkpointer = Checkpointer(sys.argv[1])
            found = checkpointer.restore(state(0, 20_000))
            step = 0 if found is None else found[1]
            print("ready", flush=True)
            while True:
                step += 1
                checkpointer.save(step, state(step, 20_000))
            """,
            tmp_path,
        )
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        deadline = time.monotonic() + 300
        while not any(int(step) > committed for step in os.listdir(steps) if step.isdigit()):
            assert time.monotonic() < deadline, "nothing is saved"
            time.sleep(0.01)
        time.sleep(rng.random() * 0.5)  # into one of the saves after that
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        with Checkpointer(tmp_path, read_only=True) as checkpointer:
            newest = checkpointer.latest_step()
            assert newest is not None and newest > committed
            restored, committed = checkpointer.restore(like)
        assert committed == newest
        assert {float(leaf[0]) for leaf in jax.tree.leaves(restored)} == {committed}
    names = os.listdir(tmp_path / "checkpoints")
    with Checkpointer(tmp_path) as checkpointer:
        assert sorted(os.listdir(tmp_path / "checkpoints")) == sorted(
            name for name in names if name.isdigit()
        )
        assert checkpointer.latest_step() == committed


def test_a_step_under_another_steps_name_is_damaged(workdir):
    (workdir / "checkpoints" / "2").rename(workdir / "checkpoints" / "9")
    with Checkpointer(workdir) as checkpointer:
        with pytest.raises(DamagedCheckpointError, match="manifest.json .it is that of step 2"):
            checkpointer.restore(make_state(0), step=9)
        state, step = checkpointer.restore(make_state(0))
    assert step == 1
    assert_is(state, 1)


def test_the_error_of_a_save_is_told_though_its_files_cannot_be_deleted(workdir, monkeypatch):
    def fails(*_, **__):
        raise OSError("Directory not empty")

    with Checkpointer(workdir) as checkpointer, monkeypatch.context() as patch:
        checkpointer.save(3, make_state(3))
        patch.setattr(checkpointer._writer, "wait_until_finished", _no_space)
        patch.setattr("ssl_jax.checkpoint.steps.delete_leftovers", fails)
        with pytest.raises(CheckpointError, match=r"failed: No space left; the last .* step 2$"):
            checkpointer.wait()


def _no_space():
    raise OSError("No space left")


def test_an_old_step_that_cannot_be_deleted_ends_no_run(workdir, monkeypatch, caplog):
    def fails(*_):
        raise OSError("Directory not empty")

    monkeypatch.setattr("ssl_jax.checkpoint.steps.delete", fails)
    with Checkpointer(workdir, keep_latest=1) as checkpointer:
        checkpointer.save(3, make_state(3), wait=True)
        assert checkpointer.all_steps() == [3]
    assert "step 1 of " in caplog.text and "cannot be deleted: Directory not empty" in caplog.text
