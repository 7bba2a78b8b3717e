"""Runs of several real processes whose machines go away, one after the other or all at once."""

import signal
import socket
import subprocess
import time

import numpy as np
import pytest

from ssl_jax.checkpoint.manifest import Manifest
from tests import commands
from tests.commands import losses
from tests.xla_flags import OPTIMISED

STEPS = 48
TINY = (
    "--config=configs/simclr.py:digits",
    "--config.model.widths=(4,4)",
    "--config.method.hidden_dim=8",
    "--config.method.output_dim=8",
    "--config.batch_size=32",
    f"--config.steps={STEPS}",
    "--config.optimizer.name=sgd",  # under which rounding stays rounding
    "--config.optimizer.warmup_epochs=0",
    "--config.eval.online=False",
    "--config.eval.every_epochs=0",
    "--config.eval.collapse_every_steps=0",
    "--config.eval.final_names=()",
    "--config.eval.baselines=()",
    "--config.checkpoint.every_steps=8",
    "--config.log.every_steps=1",
    "--config.log.tensorboard=False",
    "--config.log.report=False",
)
HEARTBEAT_SECONDS = 15  # this machine may be busy with other tests
# How long others may outlive one that is gone: the heartbeat timeout, and some of the machine's own
# slowness. Far from JAX's hour, and from never.
OUTLIVED = HEARTBEAT_SECONDS + 60
HANGING = 1500  # seconds after which a test gives up


class Job:
    """The train command as several processes over loopback, each with one CPU device.

    Nothing supervises them: `launch/multiprocess_local.py` would end the others when one fails.
    """

    def __init__(self, workdir, processes):
        self.workdir = workdir
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.logs = [workdir.with_name(f"{workdir.name}.{rank}.log") for rank in range(processes)]
        self.processes = []
        for rank, log in enumerate(self.logs):
            several = {
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_COORDINATOR_BIND_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(processes),
                "JAX_PROCESS_ID": str(rank),
                "SSL_JAX_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
            }
            environment = commands.environment(flags=OPTIMISED) | {"PYTHONUNBUFFERED": "1"}
            if processes > 1:
                environment |= several
            with log.open("wb") as file:
                process = commands.launch(
                    "train", f"--workdir={workdir}", *TINY,
                    environment=environment, stdout=file.fileno(),
                )  # fmt: skip
            self.processes.append(process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def output(self):
        return "\n".join(f"-- {log.name}\n{log.read_text()}" for log in self.logs)

    def wait_for_step(self, step):
        path = self.workdir / "metrics.jsonl"
        deadline = time.monotonic() + HANGING
        while not (path.exists() and f'"step": {step},' in path.read_text()):
            assert all(process.poll() is None for process in self.processes), self.output()
            assert time.monotonic() < deadline, f"step {step} was not reached\n{self.output()}"
            time.sleep(0.01)

    def kill(self, rank):
        self.processes[rank].kill()

    def terminate_all(self):
        for process in self.processes:
            process.send_signal(signal.SIGTERM)

    def exit_codes(self):
        """Of each process once all have ended by themselves, -n for signal n."""
        deadline = time.monotonic() + HANGING
        for process in self.processes:
            try:
                process.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pytest.fail(f"a process hangs\n{self.output()}")
        return [process.returncode for process in self.processes]

    def finishes(self):
        assert self.exit_codes() == [0] * len(self.processes), self.output()


def final_digests(workdir):
    return Manifest.read(workdir / "checkpoints" / str(STEPS)).arrays


def stop_all(workdir, processes, step):
    """SIGTERM to every process once `step` is logged: each saves and exits with 143."""
    with Job(workdir, processes) as job:
        job.wait_for_step(step)
        job.terminate_all()
        assert job.exit_codes() == [143] * processes, job.output()
        assert "saved; the same command continues" in job.logs[0].read_text()


def lose(workdir, processes, rank, step):
    """kill -9 of one process once `step` is logged: no other one hangs or calls it an error."""
    with Job(workdir, processes) as job:
        job.wait_for_step(step)
        job.kill(rank)
        began = time.monotonic()
        codes = job.exit_codes()
        assert time.monotonic() - began < OUTLIVED, job.output()
        assert codes.pop(rank) == -signal.SIGKILL
        # Ended by an error of the network, or by JAX as it misses heartbeats.
        assert set(codes) <= {128 + signal.SIGABRT, -signal.SIGABRT}, job.output()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of two processes."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    with Job(workdir, 2) as job:
        job.finishes()
    return workdir


@pytest.mark.slow
def test_two_processes_lose_each_of_them_and_end_bit_identically(whole, tmp_path):
    workdir = tmp_path / "run"
    stop_all(workdir, 2, step=5)
    lose(workdir, 2, rank=1, step=20)
    lose(workdir, 2, rank=0, step=36)  # the one that the others meet at, and that writes
    with Job(workdir, 2) as job:
        job.finishes()
        assert "continuing from step" in job.output()
    assert losses(workdir) == losses(whole)
    assert final_digests(workdir) == final_digests(whole)


@pytest.mark.slow
def test_two_processes_go_on_as_four_and_then_as_one(whole, tmp_path):
    """On the same batches: the losses are those of two all along, but for rounding."""
    workdir = tmp_path / "run"
    stop_all(workdir, 2, step=5)
    stop_all(workdir, 4, step=20)
    with Job(workdir, 1) as job:
        job.finishes()
        assert "continuing from step" in job.output()
    pieces, expected = losses(workdir), losses(whole)
    assert pieces.keys() == expected.keys()
    # Rounding, 1e-6 at first, grows in sixty steps; other batches would be off by percents.
    np.testing.assert_allclose(
        [pieces[step] for step in expected], list(expected.values()), rtol=1e-4
    )
