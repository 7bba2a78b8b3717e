"""The launcher itself, with commands that start fast."""

import pathlib
import signal
import subprocess
import sys
import textwrap
import time

LAUNCHER = pathlib.Path(__file__).parents[2] / "launch" / "multiprocess_local.py"


def start(script, *options):
    return subprocess.Popen(
        [
            sys.executable,
            str(LAUNCHER),
            *options,
            "--",
            sys.executable,
            "-c",
            textwrap.dedent(script),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(script, *options, timeout=30):
    process = start(script, *options)
    out, err = process.communicate(timeout=timeout)
    return process.returncode, sorted(out.splitlines()), sorted(err.splitlines())


def test_environment_and_prefixes():
    script = """
        import os, sys
        print(os.environ["JAX_PROCESS_ID"], "of", os.environ["JAX_NUM_PROCESSES"])
        print(os.environ["JAX_PLATFORMS"], os.environ["XLA_FLAGS"].split()[-1])
        print(os.environ["JAX_COORDINATOR_ADDRESS"].rsplit(":")[0], file=sys.stderr)
        print("no newline", end="")
    """
    code, out, err = run(script, "--num_processes=3", "--devices_per_process=2")
    assert code == 0
    assert out == [
        f"[{rank}] {line}"
        for rank in range(3)
        for line in (
            f"{rank} of 3",
            "cpu --xla_force_host_platform_device_count=2",
            "no newline",
        )
    ]
    assert err == [f"[{rank}] 127.0.0.1" for rank in range(3)]


def test_first_failure_decides_and_stops_the_others():
    script = """
        import os, signal, sys, time
        if os.environ["JAX_PROCESS_ID"] == "1":
            sys.exit(7)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as a process in a collective would
        time.sleep(600)
    """
    start_time = time.monotonic()
    code, _, _ = run(script)
    assert code == 7
    assert time.monotonic() - start_time < 20


def test_death_by_signal():
    code, _, _ = run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert code == 128 + signal.SIGKILL


def test_signals_are_forwarded_and_saving_takes_its_time():
    script = """
        import os, signal, sys, time
        def stop(number, frame):
            if number == signal.SIGTERM:
                time.sleep(3 * int(os.environ["JAX_PROCESS_ID"]))  # longer than a failure's grace
            print("saved", number)
            sys.exit(128 + number)
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        print("ready")
        while True:
            time.sleep(0.05)
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        process = start(script)
        assert {process.stdout.readline() for _ in range(2)} == {"[0] ready\n", "[1] ready\n"}
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 128 + number, err
        assert sorted(out.splitlines()) == [f"[{rank}] saved {int(number)}" for rank in range(2)]


def test_timeout_also_ends_what_the_processes_have_started():
    script = """
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(child.pid)
        child.wait()
    """
    code, out, err = run(script, "--timeout=2", "--num_processes=1")
    assert code == 124
    assert err == ["timeout: killing 1 processes"]
    child = pathlib.Path(f"/proc/{out[0].removeprefix('[0] ')}/stat")
    for _ in range(50):
        if not child.exists() or child.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("the grandchild is still running")


def test_bad_command_lines():
    for arguments, code, message in [
        ([], 2, "no command given"),
        (["--num_processes=0", "--", "true"], 2, "at least 1"),
        (["--", "no-such-command"], 127, "no-such-command: command not found"),
    ]:
        done = subprocess.run(
            [sys.executable, str(LAUNCHER), *arguments], capture_output=True, text=True, timeout=30
        )
        assert done.returncode == code
        assert message in done.stderr
