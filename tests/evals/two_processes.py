"""Runs a script in two processes of two devices each, which are connected over loopback."""

import os
import socket
import subprocess
import sys
import textwrap

START = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
process = int(sys.argv[1])
jax.distributed.initialize(sys.argv[2], num_processes=2, process_id=process)
"""


def run_in_two_processes(script, timeout=120):
    """What both print, if both succeed; the script has `jax` and `process`, 0 or 1."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", START + textwrap.dedent(script), str(i), address],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    return [out for out, _ in outputs]
