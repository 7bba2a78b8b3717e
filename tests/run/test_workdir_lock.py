"""One run at a time in a workdir."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
from etils import epath

from ssl_jax.core.errors import RunError
from ssl_jax.run import workdir_lock
from ssl_jax.run.workdir_lock import HEARTBEAT_SECONDS, STALE_SECONDS, InUseError, Lease
from tests import commands

HOLDER = """
import sys
from etils import epath
from ssl_jax.run import workdir_lock
lock = workdir_lock.acquire(epath.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def files(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture
def workdir(tmp_path):
    return epath.Path(tmp_path) / "run"


@pytest.mark.slow
def test_a_second_command_is_refused_until_the_first_is_killed(tmp_path):
    workdir = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(workdir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env=commands.environment(),
    ) as first:  # fmt: skip
        try:
            assert first.stdout.readline() == "held\n"
            before = files(workdir)
            second = commands.run(workdir, *commands.TINY, "--config.seed=1", check=False)
            assert second.returncode == 1
            (line,) = second.stderr.splitlines()
            assert line.startswith(
                f"error: {workdir} is in use by process {first.pid} on {socket.gethostname()} since"
            )
            assert files(workdir) == before
        finally:
            first.kill()
    assert (workdir / "lock.json").exists()
    third = commands.run(
        workdir, *commands.TINY, "--config.steps=1", "--config.eval.final_names=()"
    )
    assert third.returncode == 0
    assert not (workdir / "lock.json").exists()


def test_a_process_may_open_its_own_workdir_again(workdir):
    first, second = workdir_lock.acquire(workdir), workdir_lock.acquire(workdir)
    assert json.loads((workdir / "lock.json").read_text())["pid"] == os.getpid()
    first.release()
    second.check()
    second.release()
    assert not (workdir / "lock.json").exists()


def test_a_workdir_that_is_deleted_or_moved_is_noticed(workdir):
    lock = workdir_lock.acquire(workdir)
    shutil.rmtree(workdir)
    with pytest.raises(RunError, match="was deleted or moved while this run was writing to it"):
        lock.check()
    workdir.mkdir()
    (workdir / "lock.json").write_text("of another run")
    with pytest.raises(RunError, match="was deleted or moved"):
        lock.check()
    lock.release()
    assert (workdir / "lock.json").exists()


@pytest.mark.slow
def test_a_run_whose_workdir_is_deleted_is_no_success(tmp_path):
    process = commands.start(tmp_path / "run", *commands.TINY, "--config.steps=2000")
    try:
        commands.wait_for_step(process, tmp_path / "run", 3)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        assert process.wait(timeout=120) == 1
    finally:
        process.kill()
    assert "Traceback" not in process.output()
    assert "run was deleted or moved while this run was writing to it" in process.output()


class Clock:
    """Time that passes when somebody sleeps; then it calls `meanwhile(now)`."""

    def __init__(self):
        self.now, self.meanwhile = 0.0, lambda now: None

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.meanwhile(self.now)


@pytest.fixture
def clock():
    return Clock()


def lease(workdir, clock):
    workdir.mkdir(exist_ok=True)
    return Lease(workdir, clock, clock.sleep)


def test_a_lease_that_is_renewed_refuses_others(workdir, clock):
    first, second = lease(workdir, clock), lease(workdir, clock)
    first.take()
    began = clock.now
    clock.meanwhile = lambda now: first.renew() if now >= began + HEARTBEAT_SECONDS else None
    with pytest.raises(InUseError, match=rf"is in use by process {os.getpid()} on \S+ since "):
        second.take()
    assert clock.now - began <= HEARTBEAT_SECONDS + 1
    first.check()
    first.release()
    second.take()  # at once


def test_a_lease_of_a_killed_run_expires(workdir, clock, capsys):
    killed, next_run = lease(workdir, clock), lease(workdir, clock)
    killed.take()
    began = clock.now
    next_run.take()
    assert STALE_SECONDS <= clock.now - began <= STALE_SECONDS + 5
    assert "looks for up to 60 s whether it still runs" in capsys.readouterr().out
    # The one that was only asleep notices that it has lost it, and takes nothing away.
    killed.renew()
    with pytest.raises(RunError, match="is in use by process"):
        killed.check()
    killed.release()
    next_run.renew()
    next_run.check()
    shutil.rmtree(workdir)
    next_run.renew()
    with pytest.raises(RunError, match="was deleted"):
        next_run.check()


def test_of_two_leases_taken_at_once_one_holds(workdir, clock):
    first, second = lease(workdir, clock), lease(workdir, clock)
    clock.meanwhile = lambda now: second._write()  # between writing and reading back
    with pytest.raises(InUseError):
        first.take()


def test_a_file_system_without_locks_gets_a_lease(workdir, monkeypatch):
    def no_locks(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(workdir_lock.fcntl, "lockf", no_locks)
    monkeypatch.setattr(workdir_lock, "SETTLE_SECONDS", 0)
    held = workdir_lock.acquire(workdir)
    assert isinstance(held, Lease)
    assert "token" in json.loads((workdir / "lock.json").read_text())
    held.release()
    assert not (workdir / "lock.json").exists()


def test_the_other_processes_of_a_run_follow_the_first(workdir, monkeypatch):
    monkeypatch.setattr(workdir_lock.parallel, "is_first_process", lambda: False)
    answers = ["", "it is in use"]
    monkeypatch.setattr(workdir_lock.parallel, "text_from_first_process", lambda _: answers.pop(0))
    workdir_lock.acquire(workdir).check()
    with pytest.raises(InUseError, match="it is in use"):
        workdir_lock.acquire(workdir)
    assert not workdir.exists()
