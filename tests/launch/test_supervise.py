"""The supervisor of a worker, with commands that start fast."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

SUPERVISE = pathlib.Path(__file__).parents[2] / "launch" / "supervise.py"


def supervise(action, directory, *options, code=0):
    done = subprocess.run(
        [sys.executable, "-S", "-E", str(SUPERVISE), action, f"--dir={directory}", *options],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def status(directory):
    line = supervise("status", directory)
    assert line.startswith("SUPERVISED ") and line.count("\n") == 1
    return json.loads(line.removeprefix("SUPERVISED "))


def wait_until(directory, fits):
    end = time.monotonic() + 100
    while not fits(found := status(directory)):
        assert time.monotonic() < end, found
        time.sleep(0.1)
    return found


def wait_for(directory, *names):
    return wait_until(directory, lambda found: found["state"] in names)


@pytest.fixture
def directory(tmp_path):
    yield tmp_path / "run"
    supervise("stop", tmp_path / "run", "--grace=0")


# Ends with the codes of its arguments, one a start; -N is death by signal N.
ENDS = """
import os, pathlib, sys
count = pathlib.Path("{count}")
number = len(count.read_text()) if count.exists() else 0
count.write_text("x" * (number + 1))
print("start", number, flush=True)
code = [{codes}][number]
os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)
"""


@pytest.mark.parametrize(
    ("codes", "state", "seen"),
    [
        ((0,), "finished", [0]),
        ((1,), "failed", [1]),
        ((2,), "failed", [2]),
        ((130,), "failed", [130]),
        ((143, -signal.SIGKILL, -signal.SIGABRT, 0), "finished", [143, 137, 134, 0]),
        ((143, 143, 143, 143, 0), "failed", [143] * 4),  # --max_restarts=3
    ],
    ids=str,
)
def test_how_it_ended_decides(directory, tmp_path, codes, state, seen):
    script = ENDS.format(
        count=tmp_path / "count", codes=", ".join(str(int(code)) for code in codes)
    )
    options = ("--max_restarts=3", "--delay=0.01", "--commit=abc")
    command = (sys.executable, "-S", "-c", script)
    assert supervise("start", directory, *options, "--", *command) == "started\n"
    found = wait_for(directory, "finished", "failed")
    assert (found["state"], found["exit_codes"]) == (state, seen)
    assert found["restarts"] == len(seen) - 1
    assert found["last_line"] == f"start {len(seen) - 1}"
    assert (found["commit"], found["command"]) == ("abc", list(command))


SAVES = """
import signal, sys, time
def save(number, frame):
    print("saved", flush=True)
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(600)
"""


def start_saving(directory):
    supervise("start", directory, "--delay=0.01", "--", sys.executable, "-S", "-c", SAVES)
    return wait_until(directory, lambda found: found["last_line"] == "ready")


def test_start_is_idempotent_and_stop_lets_it_save(directory):
    assert status(directory)["state"] == "absent"
    first = start_saving(directory)
    again = supervise("start", directory, "--", sys.executable, "-S", "-c", SAVES)
    assert again == "already running\n"
    other = supervise("start", directory, "--", "true", code=3)
    assert "runs another command" in other
    assert status(directory)["pid"] == first["pid"]
    assert supervise("stop", directory) == "stopped\n"
    found = status(directory)
    assert (found["state"], found["exit_codes"]) == ("stopped", [143])
    assert found["last_line"] == "saved"
    assert supervise("stop", directory) == "nothing is running\n"
    start_saving(directory)  # and it can be started again


def test_a_machine_that_goes_down_is_not_told_twice(directory):
    found = start_saving(directory)
    os.kill(found["supervisor"], signal.SIGTERM)
    time.sleep(0.2)
    assert status(directory)["state"] == "running"  # the process is left to its own signal
    os.kill(found["pid"], signal.SIGTERM)
    assert wait_for(directory, "terminated")["exit_codes"] == [143]  # and not started again
    start_saving(directory)  # but after the reboot
    assert supervise("stop", directory) == "stopped\n"


def test_without_its_supervisor_it_saves_and_ends(directory):
    found = start_saving(directory)
    os.kill(found["supervisor"], signal.SIGKILL)
    assert wait_for(directory, "lost")
    wait_until(directory, lambda found: found["last_line"] == "saved")
    start_saving(directory)


def test_bad_command_lines(directory):
    assert "no command given" in supervise("start", directory, code=2)
    supervise("start", directory, "--", "no-such-command")
    found = wait_for(directory, "failed")
    assert found["exit_codes"] == [127]
    assert "no-such-command" in found["last_line"]
